"Small models of random weights, and their weights and LoRAs in the names that other programs give them"
import re
from functools import partial
import diffusers, torch
from transformers import T5Config, T5EncoderModel, T5Tokenizer
import families_image, families_unet
from families_unet import pooled_text, quiet, text, tokenizer, wake

def t5_words():
    "A tokenizer of T5's kind, of a few words"
    words = [(f'▁{w}', -2.) for w in 'a red blue circle above square'.split()]
    return T5Tokenizer(vocab=[('<pad>', 0.), ('</s>', 0.), ('<unk>', -1.), *words], extra_ids=0)

def t5(dim):
    cfg = T5Config(vocab_size=16, d_model=dim, d_kv=4, d_ff=16, num_layers=1, num_heads=2, pad_token_id=0)
    return T5EncoderModel(cfg)

def wide(dim=24):
    "A text model that differs from the first in width, by which diffusers tells two in one file apart"
    first = pooled_text()
    cfg = type(first.config).from_dict({**first.config.to_dict(), 'hidden_size': dim, 'projection_dim': dim})
    return type(first)(cfg)

def square(net):
    "A text model whose projection is the identity: SD3's file holds none for the first"
    with torch.no_grad(): net.text_projection.weight.copy_(torch.eye(len(net.text_projection.weight)))
    return net

def again(net, **sizes):
    "A network of the same class and other sizes"
    return type(net)(**{**{k: v for k, v in net.config.items() if k[0] != '_'}, **sizes})

def xl():
    sizes = dict(cross_attention_dim=40, projection_class_embeddings_input_dim=48)
    net = wake(families_unet.unet(**{**families_unet.XL, **sizes}))
    return diffusers.StableDiffusionXLPipeline(families_unet.vae(), text(), wide(), tokenizer(), tokenizer(), net,
                                               families_unet.euler())

def sd3():
    pipe = families_image.FAMILIES['StableDiffusion3Pipeline']()[0]
    net = wake(again(pipe.transformer, joint_attention_dim=48, pooled_projection_dim=40))
    return type(pipe)(net, pipe.scheduler, families_image.vae(4, shift_factor=.1), square(pooled_text()), tokenizer(),
                      wide(), tokenizer(), t5(48), t5_words())

def flux():
    pipe = families_image.FAMILIES['FluxPipeline']()[0]
    net = wake(again(pipe.transformer, joint_attention_dim=48, pooled_projection_dim=16))
    return type(pipe)(pipe.scheduler, families_image.vae(shift_factor=.1), text(), tokenizer(), t5(48), t5_words(), net)

# by name, such a model and what its call is told besides
MODELS = {'SDXL': partial(quiet, xl, {}), 'SD3': partial(quiet, sd3, {}), 'Flux': partial(quiet, flux, {})}
CALL = {'SDXL': {}, 'SD3': dict(max_sequence_length=8), 'Flux': dict(max_sequence_length=8)}

def network(pipe): return getattr(pipe, 'unet', None) or pipe.transformer

# The U-Net
ENDS = {'conv_in': 'input_blocks.0.0', 'time_embedding.linear_1': 'time_embed.0',
        'time_embedding.linear_2': 'time_embed.2', 'add_embedding.linear_1': 'label_emb.0.0',
        'add_embedding.linear_2': 'label_emb.0.2', 'conv_norm_out': 'out.0', 'conv_out': 'out.2',
        'mid_block.resnets.0': 'middle_block.0', 'mid_block.attentions.0': 'middle_block.1',
        'mid_block.resnets.1': 'middle_block.2'}

def places(net):
    "Where each part of a U-Net stands in the program that trained it"
    at = dict(ENDS)
    for side, blocks, n in (('down', net.down_blocks, 1), ('up', net.up_blocks, 0)):
        stem = 'input_blocks' if side == 'down' else 'output_blocks'
        for b, block in enumerate(blocks):
            for k in range(len(block.resnets)):
                at[f'{side}_blocks.{b}.resnets.{k}'] = f'{stem}.{n}.0'
                at[f'{side}_blocks.{b}.attentions.{k}'] = f'{stem}.{n}.1'
                n += 1
            if getattr(block, 'downsamplers', None):
                at[f'down_blocks.{b}.downsamplers.0.conv'] = f'{stem}.{n}.0.op'
                n += 1
            if getattr(block, 'upsamplers', None):
                at[f'up_blocks.{b}.upsamplers.0'] = f"{stem}.{n - 1}.{1 + hasattr(block, 'attentions')}"
    return at

RES = {'norm1': 'in_layers.0', 'conv1': 'in_layers.2', 'time_emb_proj': 'emb_layers.1', 'norm2': 'out_layers.0',
       'conv2': 'out_layers.3', 'conv_shortcut': 'skip_connection'}

def moved(key, at):
    "A key with its longest known beginning replaced"
    known = max((k for k in at if key.startswith(k + '.')), key=len)
    rest = key[len(known) + 1:]
    if '.resnets.' in known:
        part, _, end = rest.partition('.')
        rest = f'{RES[part]}.{end}'
    return f'{at[known]}.{rest}'

def unet_weights(net):
    at = places(net)
    return {moved(k, at): v for k, v in net.state_dict().items()}

# The decoder
MID = {'group_norm': 'norm', 'to_q': 'q', 'to_k': 'k', 'to_v': 'v', 'to_out.0': 'proj_out'}

def vae_key(key, levels):
    "What a weight of a VAE is called there"
    side, _, rest = key.partition('.')
    if side not in ('encoder', 'decoder'): return key
    rest = rest.replace('conv_shortcut', 'nin_shortcut').replace('conv_norm_out', 'norm_out')
    rest = re.sub(r'mid_block\.resnets\.(\d)', lambda m: f'mid.block_{int(m[1]) + 1}', rest)
    attention = r'mid_block\.attentions\.0\.(group_norm|to_[qkv]|to_out\.0)'
    rest = re.sub(attention, lambda m: f'mid.attn_1.{MID[m[1]]}', rest)
    rest = re.sub(r'down_blocks\.(\d+)\.resnets', r'down.\1.block', rest)
    rest = re.sub(r'down_blocks\.(\d+)\.downsamplers\.0', r'down.\1.downsample', rest)
    back = lambda m: f'up.{levels - 1 - int(m[1])}.' + ('block' if m[2] == 'resnets' else 'upsample')
    return f"{side}.{re.sub(r'up_blocks.([0-9]+).(resnets|upsamplers.0)', back, rest)}"

def vae_weights(vae):
    named = {vae_key(k, len(vae.config.block_out_channels)): v for k, v in vae.state_dict().items()}
    # attention is a convolution there
    return {k: v[..., None, None] if re.search(r'attn_1\.(q|k|v|proj_out)\.weight', k) else v for k, v in named.items()}

# Text encoders
OPEN = {'layer_norm1': 'ln_1', 'layer_norm2': 'ln_2', 'mlp.fc1': 'mlp.c_fc', 'mlp.fc2': 'mlp.c_proj',
        'self_attn.out_proj': 'attn.out_proj'}
TOP = {'embeddings.position_embedding.weight': 'positional_embedding',
       'embeddings.token_embedding.weight': 'token_embedding.weight', 'final_layer_norm.weight': 'ln_final.weight',
       'final_layer_norm.bias': 'ln_final.bias'}

def open_clip(net):
    "A text model in the names of OpenCLIP, where query, key and value are one matrix"
    w = {k.removeprefix('text_model.'): v for k, v in net.state_dict().items()}
    out = {new: w[old] for old, new in TOP.items()} | {'text_projection': w['text_projection.weight'].T}
    for k, v in w.items():
        if not (m := re.fullmatch(r'encoder\.layers\.(\d+)\.(.+)\.(weight|bias)', k)): continue
        if m[2] in OPEN: out[f'transformer.resblocks.{m[1]}.{OPEN[m[2]]}.{m[3]}'] = v
        elif m[2] == 'self_attn.q_proj':
            all3 = [w[k.replace('q_proj', f'{x}_proj')] for x in 'qkv']
            out[f'transformer.resblocks.{m[1]}.attn.in_proj_{m[3]}'] = torch.cat(all3)
    return out

def clip(net):
    "The same in the names of transformers, before these were made shorter"
    whole = 'text_model.', 'text_projection'
    return {k if k.startswith(whole) else f'text_model.{k}': v for k, v in net.state_dict().items()}

# Transformers
def swapped(w): return torch.cat(w.chunk(2)[::-1])       # shift and scale stand the other way round

def renamed(w, names):
    "Weights by other names; those of a tuple are one matrix there, of which one may be turned"
    out = {}
    for new, old in names.items():
        for end in ('weight', 'bias'):
            olds = [f'{k}.{end}' for k in (old if isinstance(old, tuple) else (old, ))]
            if olds[0] in w: out[f'{new}.{end}'] = torch.cat([w[k] for k in olds])
    return out

KINDS = {'x': ('to_q', 'to_k', 'to_v'), 'context': ('add_q_proj', 'add_k_proj', 'add_v_proj')}
PARTS = {'x': dict(out='to_out.0', ff='ff', norm='norm1'),
         'context': dict(out='to_add_out', ff='ff_context', norm='norm1_context')}

def block(here, there, side, names):
    "The layers of one side of a block, here and there; `names` are qkv, out, first, second, norm"
    p = PARTS[side]
    olds = (tuple(f'{there}.attn.{k}' for k in KINDS[side]), f"{there}.attn.{p['out']}",
            f"{there}.{p['ff']}.net.0.proj", f"{there}.{p['ff']}.net.2", f"{there}.{p['norm']}.linear")
    return {f'{here}{new}': old for new, old in zip(names, olds)}

def pairs(here, there, k): return {f'{here[0]}.{here[k]}': f'time_text_embed.{there}.linear_{k}'}

def embedders(known):
    "The layers that embed the time and the pooled text"
    return {k: v for here, there in known for n in (1, 2) for k, v in pairs(here, there, n).items()}

def sd3_weights(net):
    "The network of SD3 in the names of its own program"
    w, n = net.state_dict(), net.config.num_layers
    at = {'x_embedder.proj': 'pos_embed.proj', 'context_embedder': 'context_embedder', 'final_layer.linear': 'proj_out'}
    at |= embedders([(('t_embedder.mlp', 0, 2), 'timestep_embedder'), (('y_embedder.mlp', 0, 2), 'text_embedder')])
    for i in range(n):
        names = '.attn.qkv', '.attn.proj', '.mlp.fc1', '.mlp.fc2', '.adaLN_modulation.1'
        for side in KINDS:
            at |= block(f'joint_blocks.{i}.{side}_block', f'transformer_blocks.{i}', side, names)
    last = f'joint_blocks.{n - 1}.context_block.adaLN_modulation.1'
    ends = {'final_layer.adaLN_modulation.1': 'norm_out.linear',
            last: f'transformer_blocks.{n - 1}.norm1_context.linear'}
    turned = {k: swapped(v) for k, v in renamed(w, ends).items()}
    return renamed(w, at) | {'pos_embed': w['pos_embed.pos_embed']} | turned

def flux_weights(net):
    "The network of Flux in the names of its own program"
    w, at, norms = net.state_dict(), {'txt_in': 'context_embedder', 'img_in': 'x_embedder'}, {}
    at |= {'final_layer.linear': 'proj_out'}
    at |= embedders([((f'{k}_in', 'in_layer', 'out_layer'), f'{v}_embedder') for k, v in (
        ('time', 'timestep'), ('vector', 'text'), ('guidance', 'guidance'))])
    for i in range(net.config.num_layers):
        there = f'transformer_blocks.{i}'
        for side, stem, own in (('x', 'img', 'norm'), ('context', 'txt', 'norm_added')):
            here = f'double_blocks.{i}.{stem}'
            at |= block(here, there, side, ('_attn.qkv', '_attn.proj', '_mlp.0', '_mlp.2', '_mod.lin'))
            norms |= {f'{here}_attn.norm.{k}_norm.scale': f'{there}.attn.{own}_{k[0]}.weight' for k in ('query', 'key')}
    for i in range(net.config.num_single_layers):
        here, there = f'single_blocks.{i}', f'single_transformer_blocks.{i}'
        all4 = tuple(f'{there}.{k}' for k in ('attn.to_q', 'attn.to_k', 'attn.to_v', 'proj_mlp'))
        at |= {f'{here}.linear1': all4, f'{here}.linear2': f'{there}.proj_out'}
        at |= {f'{here}.modulation.lin': f'{there}.norm.linear'}
        norms |= {f'{here}.norm.{k}_norm.scale': f'{there}.attn.norm_{k[0]}.weight' for k in ('query', 'key')}
    turned = renamed(w, {'final_layer.adaLN_modulation.1': 'norm_out.linear'})
    return renamed(w, at) | {k: w[v] for k, v in norms.items()} | {k: swapped(v) for k, v in turned.items()}

def under(prefix, weights): return {prefix + k: v for k, v in weights.items()}

def one_file(pipe):
    "All weights of a pipeline by the names of one file"
    kind = type(pipe).__name__
    if 'XL' in kind:
        parts = {'model.diffusion_model.': unet_weights(pipe.unet), 'first_stage_model.': vae_weights(pipe.vae),
                 'conditioner.embedders.0.transformer.': clip(pipe.text_encoder),
                 'conditioner.embedders.1.model.': open_clip(pipe.text_encoder_2)}
    elif 'Flux' in kind:
        parts = {'model.diffusion_model.': flux_weights(pipe.transformer), 'vae.': vae_weights(pipe.vae)}
    else:
        first = {k: v for k, v in clip(pipe.text_encoder).items() if k != 'text_projection.weight'}
        parts = {'model.diffusion_model.': sd3_weights(pipe.transformer), 'first_stage_model.': vae_weights(pipe.vae),
                 'text_encoders.clip_l.transformer.': first,
                 'text_encoders.clip_g.transformer.': clip(pipe.text_encoder_2),
                 'text_encoders.t5xxl.transformer.': pipe.text_encoder_3.state_dict()}
    found = {k: v for prefix, weights in parts.items() for k, v in under(prefix, weights).items()}
    return {k: v.clone().contiguous() for k, v in found.items()}

# LoRAs
def draw(*shape): return torch.randn(shape)*.3

def lora(layers, down, up, prefix='', join='.', rank=2, alpha=None):
    "Two thin matrices for each layer, by names such as these; kohya's trainer tells besides by what to divide"
    res = {}
    for k, (into, outof) in layers.items():
        name = prefix + k.replace('.', join)
        res |= {f'{name}.{down}.weight': draw(rank, into), f'{name}.{up}.weight': draw(outof, rank)}
        if alpha is not None: res[f'{name}.alpha'] = torch.tensor(float(alpha))
    return res

def linear(net, *ends):
    "The sizes of those layers of a network whose name ends so"
    return {k: (m.in_features, m.out_features) for k, m in net.named_modules()
            if isinstance(m, torch.nn.Linear) and k.endswith(ends)}

ATTENTION, WORDS = ('to_q', 'to_v', 'to_out.0'), ('q_proj', 'k_proj', 'v_proj', 'out_proj')

def peft_lora(pipe):
    "As diffusers' own trainer writes it"
    prefix = 'unet.' if hasattr(pipe, 'unet') else 'transformer.'
    words = lora(linear(pipe.text_encoder, *WORDS), 'lora_A', 'lora_B', 'text_encoder.')
    return lora(linear(network(pipe), *ATTENTION), 'lora_A', 'lora_B', prefix) | words

def diffusers_lora(pipe):
    "As diffusers wrote it before it had peft"
    prefix = 'unet.' if hasattr(pipe, 'unet') else 'transformer.'
    return lora(linear(network(pipe), *ATTENTION), 'lora.down', 'lora.up', prefix)

kohya = partial(lora, down='lora_down', up='lora_up', join='_', alpha=1)

def kohya_xl(pipe):
    "As kohya's trainer writes it for SDXL, blocks named as in the program that trained it"
    at = places(pipe.unet)
    layers = {moved(k + '.', at)[:-1]: v for k, v in linear(pipe.unet, *ATTENTION).items()}
    words = {f"text_model.{k.removeprefix('text_model.')}": v for k, v in linear(pipe.text_encoder, *WORDS).items()}
    more = linear(pipe.text_encoder_2, *WORDS)
    return kohya(layers, prefix='lora_unet_') | kohya(words, prefix='lora_te1_') | kohya(more, prefix='lora_te2_')

def kohya_flux(pipe):
    "The same for Flux, where query, key and value are one matrix"
    layers, dim = {}, pipe.transformer.inner_dim
    for i in range(pipe.transformer.config.num_layers):
        layers |= {f'double_blocks.{i}.{side}_attn.qkv': (dim, 3*dim) for side in ('img', 'txt')}
        layers |= {f'double_blocks.{i}.img_attn.proj': (dim, dim)}
    words = {f"text_model.{k.removeprefix('text_model.')}": v for k, v in linear(pipe.text_encoder, *WORDS).items()}
    return kohya(layers, prefix='lora_unet_') | kohya(words, prefix='lora_te1_')

LORAS = {('SDXL', 'peft'): peft_lora, ('SDXL', 'diffusers'): diffusers_lora, ('SDXL', 'kohya'): kohya_xl,
         ('SD3', 'peft'): peft_lora, ('SD3', 'diffusers'): diffusers_lora, ('Flux', 'peft'): peft_lora,
         ('Flux', 'kohya'): kohya_flux}
