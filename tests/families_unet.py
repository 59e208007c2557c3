"Tiny random-weight pipelines of diffusers' U-Net families: `FAMILIES[name]()` gives a pipeline and the arguments of its call"
import warnings
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
import diffusers, torch
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer, CLIPVisionConfig
from transformers import CLIPVisionModelWithProjection
from transformers import ClapConfig, ClapModel, GPT2Config, GPT2LMHeadModel, SpeechT5HifiGan, SpeechT5HifiGanConfig

FAMILIES, SCALE, FORMULA, NOTE, LEFT = {}, {}, {}, {}, {}
TOKENIZER = Path(__file__).parent.parent/'cf_guidance'/'models'/'shapes'/'tokenizer'
PROMPTS, WORST = ['a red circle above a blue square', 'two green rings'], ['blurry, dark', 'grey']
PX = 16

def quiet(make, kw):
    "Call a maker with seeded weights and no warnings; the caller's random state is left alone"
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter('ignore')
        level = diffusers.utils.logging.get_verbosity()
        diffusers.utils.logging.set_verbosity_error()
        torch.manual_seed(0)
        try: return make(**kw)
        finally: diffusers.utils.logging.set_verbosity(level)

def add(make, name, formula='u first', scale='guidance_scale', note=None, **kw):
    "Register the family `name`, a class of diffusers with or without a suffix after +"
    cls = name.partition('+')[0]
    lacks = getattr(getattr(diffusers, cls), '_backends', None)
    if lacks: return LEFT.update({name: 'needs ' + ', '.join(b for b in lacks if not find_spec(b))})
    def made_pipe():
        pipe, args = quiet(make, dict(cls=cls, **kw))
        for o in pipe.components.values():
            if isinstance(o, torch.nn.Module): o.eval().requires_grad_(False)
        pipe.set_progress_bar_config(disable=True)
        return pipe, args
    FAMILIES[name], SCALE[name], FORMULA[name] = made_pipe, scale, formula
    if note: NOTE[name] = note

def made(d):
    "The dict with its makers called"
    return {k: v() if callable(v) else v for k, v in d.items()}

def tokenizer(): return CLIPTokenizer.from_pretrained(TOKENIZER)

def text(projected=False, positions=24):
    "A text model for the small tokenizer, whose words differ clearly"
    cfg = CLIPTextConfig(vocab_size=281, hidden_size=16, intermediate_size=32, num_hidden_layers=2,
                         num_attention_heads=2, max_position_embeddings=positions, projection_dim=16, bos_token_id=279,
                         eos_token_id=280, pad_token_id=280)
    m = (CLIPTextModelWithProjection if projected else CLIPTextModel)(cfg)
    m.get_input_embeddings().weight.data.mul_(50)
    return m

pooled_text = partial(text, projected=True)
EYES = dict(hidden_size=16, intermediate_size=32, num_hidden_layers=4, num_attention_heads=2, image_size=PX,
            patch_size=8)
def eyes(): return CLIPVisionModelWithProjection(CLIPVisionConfig(**EYES, projection_dim=16))

LOUD = ('attn2.to_v', 'attn2.add_v_proj', 'attn2.to_out.0', 'add_embedding.linear_2', 'kv_mapper.1',
        'attention.to_out.0')
def louder(net, by=4.):
    "Scale what the cross-attention says, so that the text matters"
    for n, m in net.named_modules():
        if n.endswith(LOUD): m.weight.data.mul_(by)
    return net

def wake(net):
    "Give the layers that start at zero random weights"
    for p in net.parameters():
        if not p.any(): torch.nn.init.normal_(p, std=.1)
    return net

DOWN, UP = ('CrossAttnDownBlock2D', 'DownBlock2D'), ('UpBlock2D', 'CrossAttnUpBlock2D')
UNET = dict(sample_size=8, block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4, attention_head_dim=4,
            cross_attention_dim=16, down_block_types=DOWN, up_block_types=UP)
XL = dict(addition_embed_type='text_time', addition_time_embed_dim=4, projection_class_embeddings_input_dim=40,
          cross_attention_dim=32, use_linear_projection=True, down_block_types=DOWN[::-1], up_block_types=UP[::-1])
SIMPLE = dict(down_block_types=('ResnetDownsampleBlock2D', 'SimpleCrossAttnDownBlock2D'),
              mid_block_type='UNetMidBlock2DSimpleCrossAttn',
              up_block_types=('SimpleCrossAttnUpBlock2D', 'ResnetUpsampleBlock2D'),
              resnet_time_scale_shift='scale_shift')
def unet(**kw): return louder(diffusers.UNet2DConditionModel(**{**UNET, **kw}))

def coder(levels):
    return dict(block_out_channels=(8, )*levels, down_block_types=('DownEncoderBlock2D', )*levels,
                up_block_types=('UpDecoderBlock2D', )*levels, latent_channels=4, norm_num_groups=4)
def vae(levels=2, **kw): return diffusers.AutoencoderKL(**coder(levels), sample_size=PX, **kw)
def movq(): return diffusers.VQModel(**coder(2), vq_embed_dim=4, num_vq_embeddings=12)

BETAS = dict(beta_start=.00085, beta_end=.012, beta_schedule='scaled_linear')
def ddim(): return diffusers.DDIMScheduler(**BETAS, clip_sample=False, set_alpha_to_one=False, steps_offset=1)
def euler(): return diffusers.EulerDiscreteScheduler(**BETAS, steps_offset=1)
def lcm(): return diffusers.LCMScheduler(**BETAS, clip_sample=False)

def ddpm(variance='learned_range'):
    return diffusers.DDPMScheduler(**BETAS | dict(beta_schedule='linear'), clip_sample=False, variance_type=variance)
def cosine(**kw): return diffusers.DDPMScheduler(beta_schedule='squaredcos_cap_v2', **{**dict(clip_sample=False), **kw})

def unclip(**kw):
    return diffusers.UnCLIPScheduler(
        **{**dict(variance_type='fixed_small_log', prediction_type='sample', clip_sample_range=5.), **kw})
wuerstchen = diffusers.DDPMWuerstchenScheduler

def image(px=PX, c=3, n=2): return torch.rand(n, c, px, px)
def half_mask(px=PX): return (torch.arange(px) >= px//2).float().expand(2, 1, px, px).clone()
def rows(*mid, n=2): return torch.randn(n, *mid, 16)
def ones(): return torch.ones(2, 6, dtype=torch.long)

SAY = dict(prompt=PROMPTS, negative_prompt=WORST)
ONE = dict(prompt=PROMPTS[:1], negative_prompt=WORST[:1])
ASK, PT = SAY | dict(output_type='latent'), SAY | dict(output_type='pt')
WH, WIDE = dict(height=PX, width=PX), dict(height=64, width=64)
START, HOLE = dict(image=image, strength=.8), dict(image=image, mask_image=half_mask)
SAFE = dict(safety_checker=None, feature_extractor=None, requires_safety_checker=False)

def host(cls, parts, **args):
    "A pipeline with the parts named here only"
    return getattr(diffusers, cls)(**made(parts)), made(args)

def sd(cls, net={}, parts={}, after=None, ask=ASK, safe=SAFE, **args):
    "A pipeline with the parts of Stable Diffusion"
    pipe, args = host(
        cls,
        dict(vae=vae, text_encoder=text, tokenizer=tokenizer, unet=partial(unet, **net), scheduler=ddim) | safe | parts,
        **ask | args)
    if after: after(pipe)
    return pipe, args

def xl(cls, net={}, parts={}, **kw):
    "A pipeline with the parts of Stable Diffusion XL"
    return sd(cls, XL | net,
              dict(text_encoder_2=pooled_text, tokenizer_2=tokenizer, scheduler=euler) | parts, safe={}, **kw)

def told(cls, parts, **args):
    "A pipeline that is given embeddings instead of words"
    return host(cls,
                dict(tokenizer=None, text_encoder=None) | parts, prompt_embeds=3*rows(6),
                negative_prompt_embeds=3*rows(6), **args)

def look(pipe, cross=16):
    "Load a random IP-Adapter"
    at = [pipe.unet.get_submodule(n.rpartition('.')[0]) for n in pipe.unet.attn_processors if 'attn2' in n]
    ip = {
        f'{2*i + 1}.to_{k}_ip.weight': torch.randn(a.to_out[0].out_features, cross)/2
        for i, a in enumerate(at)
        for k in 'kv'
    }
    proj = {
        'proj.weight': torch.randn(4*cross, 16)/4, 'proj.bias': torch.zeros(4*cross), 'norm.weight': torch.ones(cross),
        'norm.bias': torch.zeros(cross)
    }
    pipe.unet._load_ip_adapter_weights([dict(image_proj=proj, ip_adapter=ip)])

SEEN = dict(ip_adapter_image_embeds=lambda: [rows(1, n=4)])
CONTROL = {k: UNET[k]
           for k in UNET
           if k not in ('sample_size', 'up_block_types')} | dict(conditioning_embedding_out_channels=(8, 8))
CONTROL_XL = CONTROL | {k: XL[k] for k in XL if k != 'up_block_types'}
def control(kind='ControlNetModel', **kw): return wake(louder(getattr(diffusers, kind)(**{**CONTROL, **kw})))
BY, BY_XL = dict(controlnet=control), dict(controlnet=partial(control, **CONTROL_XL))
UNION = dict(
    parts=dict(controlnet=partial(control, 'ControlNetUnionModel', **CONTROL_XL, num_control_type=6,
                                  num_trans_channel=8, num_trans_head=2, num_proj_channel=8)),
    control_image=lambda: [image()], control_mode=[0])
def adapter(): return diffusers.T2IAdapter(channels=[8, 16], num_res_blocks=1, downscale_factor=2)
DEEP = dict(layers_per_block=2)

def xs(**kw):
    return wake(
        diffusers.ControlNetXSAdapter.from_unet(unet(**kw, **DEEP), block_out_channels=(4, 8), num_attention_heads=2,
                                                conditioning_embedding_out_channels=(8, 8)))

LCM = dict(net=dict(time_cond_proj_dim=8), parts=dict(scheduler=lcm), ask=dict(prompt=PROMPTS, output_type='latent'),
           note='guidance is embedded, one row an image')

add(sd, 'StableDiffusionPipeline', **WH)
add(xl, 'StableDiffusionXLPipeline', **WH)
add(sd, 'StableDiffusionImg2ImgPipeline', **START)
add(sd, 'StableDiffusionInpaintPipeline', **HOLE, **WH)
add(sd, 'StableDiffusionInpaintPipeline+9', net=dict(in_channels=9), **HOLE, **WH)
add(xl, 'StableDiffusionXLImg2ImgPipeline', **START)
add(xl, 'StableDiffusionXLInpaintPipeline', **HOLE, **WH)
add(xl, 'StableDiffusionXLInpaintPipeline+9', net=dict(in_channels=9), **HOLE, **WH)
add(sd, 'StableDiffusionControlNetPipeline', parts=BY, image=image)
add(sd, 'StableDiffusionControlNetPipeline+guess', parts=BY, image=image, guess_mode=True,
    note='the control network sees the conditional half only')
add(sd, 'StableDiffusionControlNetImg2ImgPipeline', parts=BY, **START, control_image=image)
add(sd, 'StableDiffusionControlNetInpaintPipeline', parts=BY, **HOLE, control_image=image)
add(xl, 'StableDiffusionXLControlNetPipeline', parts=BY_XL, image=image)
add(xl, 'StableDiffusionXLControlNetImg2ImgPipeline', parts=BY_XL, **START, control_image=image)
add(xl, 'StableDiffusionXLControlNetInpaintPipeline', parts=BY_XL, **HOLE, control_image=image)
add(xl, 'StableDiffusionXLControlNetUnionPipeline', **UNION)
add(xl, 'StableDiffusionXLControlNetUnionImg2ImgPipeline', **UNION, **START)
add(xl, 'StableDiffusionXLControlNetUnionInpaintPipeline', **UNION, **HOLE)
add(sd, 'StableDiffusionControlNetXSPipeline', net=DEEP, parts=dict(controlnet=xs), image=image)
add(xl, 'StableDiffusionXLControlNetXSPipeline', net=DEEP, parts=dict(controlnet=partial(xs, **XL)), image=image)
add(sd, 'StableDiffusionPipeline+ip', after=look, **SEEN, **WH)
add(xl, 'StableDiffusionXLPipeline+ip', after=partial(look, cross=32), **SEEN, **WH)
add(sd, 'StableDiffusionAdapterPipeline', parts=dict(adapter=adapter), image=image, **WH)
add(xl, 'StableDiffusionXLAdapterPipeline', net=dict(down_block_types=DOWN, up_block_types=UP),
    parts=dict(adapter=adapter), image=image, **WH)
add(sd, 'StableDiffusionDepth2ImgPipeline', net=dict(in_channels=5),
    safe=dict(depth_estimator=None, feature_extractor=None), **START, depth_map=lambda: torch.rand(2, PX, PX))
add(sd, 'StableDiffusionGLIGENPipeline', net=dict(attention_type='gated'), **WH, gligen_phrases=['a ring'],
    gligen_boxes=[[.1, .1, .6, .6]])
add(sd, 'StableDiffusionUpscalePipeline', net=dict(in_channels=7, num_class_embeds=350), safe={},
    parts=dict(low_res_scheduler=cosine), image=partial(image, 8))
add(sd, 'StableDiffusionLatentUpscalePipeline', net=dict(in_channels=8, out_channels=5, time_cond_proj_dim=144),
    safe={}, parts=dict(scheduler=euler), image=lambda: torch.randn(2, 4, 4, 4),
    note='the output is preconditioned before the formula, its last channel is dropped')
add(sd, 'LatentConsistencyModelPipeline', 'none', **LCM, **WH)
add(sd, 'LatentConsistencyModelImg2ImgPipeline', 'none', **LCM, **START)
add(sd, 'StableDiffusionInstructPix2PixPipeline', 'three', net=dict(in_channels=8), image=image)
add(xl, 'StableDiffusionXLInstructPix2PixPipeline', 'three', net=dict(in_channels=8), image=image, **WH)
add(sd, 'StableDiffusionPAGPipeline', 'three', **WH)
add(sd, 'StableDiffusionPAGPipeline+0', pag_scale=0., **WH)
add(xl, 'StableDiffusionXLPAGPipeline', 'three', **WH)
add(xl, 'StableDiffusionXLPAGPipeline+0', pag_scale=0., **WH)
add(sd, 'StableDiffusionPipelineSafe', 'three', output_type='np', **WH)
add(sd, 'SemanticStableDiffusionPipeline', **WH)
add(sd, 'SemanticStableDiffusionPipeline+edit', 'three', editing_prompt=['blue'], edit_warmup_steps=0, **WH)
add(
    sd, 'StableDiffusionSAGPipeline', **WH, note=
    'adds sag_scale (u - d), d from a second call with the unconditional half only; it reads u and both halves of an '
    'attention map, so replaced halves change it'
)
add(sd, 'StableDiffusionAttendAndExcitePipeline', token_indices=[[2, 3], [2, 3]], attn_res=(4, 4), max_iter_to_alter=2,
    thresholds={}, **WH, note='calls with one conditional row each and with gradients come before each guided call')
add(sd, 'StableDiffusionPanoramaPipeline', ask=ONE | dict(output_type='latent'), **WH)
add(sd, 'StableDiffusionPanoramaPipeline+2', 'interleaved', ask=ONE | dict(output_type='latent'), view_batch_size=2,
    parts=dict(vae=partial(vae, 4)), height=64, width=576, note='rows are u, t, u, t')
add(sd, 'TextToVideoZeroPipeline', ask=dict(prompt=PROMPTS[0], negative_prompt=WORST[0], output_type='latent'),
    video_length=2, t0=1, t1=2, **WH, note='three loops, of 1 and then of 2 frames; one timestep is visited twice')
add(sd, 'StableDiffusionLDM3DPipeline', parts=dict(vae=partial(vae, in_channels=6, out_channels=6), image_encoder=None),
    output_type='np', **WH)
add(host, 'LDMTextToImagePipeline', parts=dict(vqvae=vae, bert=partial(text, positions=77), tokenizer=tokenizer,
                                               unet=unet, scheduler=ddim), prompt=PROMPTS, output_type='np', **WIDE)

def given(kind, n=16, **kw):
    return partial(
        unet, **{
            **SIMPLE, 'addition_embed_type': kind, 'encoder_hid_dim_type': 'image_proj', 'encoder_hid_dim': n,
            'out_channels': 8, **kw
        })
K22 = dict(unet=given('image'), scheduler=ddpm, movq=movq)
EMBEDS = dict(image_embeds=rows, negative_image_embeds=rows)
LATENT = dict(output_type='latent', **WH)
def prior():
    net = diffusers.PriorTransformer(num_attention_heads=2, attention_head_dim=8, num_layers=1, embedding_dim=16,
                                     num_embeddings=24)
    for p in (net.clip_mean, net.clip_std, net.positional_embedding, net.prd_embedding): torch.nn.init.normal_(p)
    return net

PRIOR = dict(prior=prior, image_encoder=eyes, text_encoder=pooled_text, tokenizer=tokenizer, scheduler=unclip,
             image_processor=None)
LEARNED = 'the network also gives a variance, taken from the conditional half'
NEGATIVE = 'the batch holds the prompts and the negative prompts, so its halves have four rows'
add(host, 'KandinskyV22Pipeline', parts=K22, **EMBEDS, **LATENT, note=LEARNED)
add(host, 'KandinskyV22Img2ImgPipeline', parts=K22 | dict(scheduler=ddim), **EMBEDS, **LATENT, **START, note=LEARNED)
add(host, 'KandinskyV22InpaintPipeline', parts=K22 | dict(unet=given('image', in_channels=9)), **EMBEDS, **LATENT,
    **HOLE, note=LEARNED)
add(host, 'KandinskyV22ControlnetPipeline', parts=K22 | dict(unet=given('image_hint', in_channels=8)), **EMBEDS, **WH,
    output_type='pt', hint=partial(image, 64), note=LEARNED)
add(host, 'KandinskyV22PriorPipeline', parts=PRIOR, **PT, note=NEGATIVE)
add(host, 'KandinskyPriorPipeline', parts=PRIOR, **PT, note=NEGATIVE)
def mclip():
    from diffusers.pipelines.kandinsky.text_encoder import MCLIPConfig, MultilingualCLIP
    m = MultilingualCLIP(
        MCLIPConfig(transformerDimSize=16, imageDimSize=16, vocab_size=281, hidden_size=16, num_hidden_layers=1,
                    num_attention_heads=2, intermediate_size=32, max_position_embeddings=80, pad_token_id=1))
    m.transformer.get_input_embeddings().weight.data.mul_(50)
    return m

add(
    host, 'KandinskyPipeline', parts=dict(unet=given('text_image', encoder_hid_dim_type='text_image_proj'),
                                          text_encoder=mclip, tokenizer=tokenizer, scheduler=ddpm, movq=movq), **EMBEDS,
    **PT, **WH, note=LEARNED)
K3 = dict(
    unet=lambda: diffusers.Kandinsky3UNet(time_embedding_dim=16, groups=4, attention_head_dim=4, layers_per_block=2,
                                          block_out_channels=(16, 16), cross_attention_dim=16, encoder_hid_dim=16),
    scheduler=partial(ddpm, 'fixed_small'), movq=movq)
add(told, 'Kandinsky3Pipeline', parts=K3, output_type='latent', attention_mask=ones, negative_attention_mask=ones,
    **WIDE, note='(s + 1) t - s u: its scale s is one less than the usual one, and equal halves come back rounded')

def cascade(**kw):
    return louder(
        diffusers.models.StableCascadeUNet(in_channels=4, out_channels=4, timestep_ratio_embedding_dim=8,
                                           conditioning_dim=16, block_out_channels=(8, 8), num_attention_heads=(2, 2),
                                           down_num_layers_per_block=(1, 1), up_num_layers_per_block=(1, 1),
                                           clip_text_pooled_in_channels=16, dropout=(0., 0.), **kw))
def old(name, module): return getattr(import_module(f'diffusers.pipelines.deprecated.{module}'), name)
def soft(net):
    "Let a Wuerstchen network's numerator speak, and its divisor stay near 1"
    w = (net.out if hasattr(net, 'out') else net.clf)[1].weight.data
    torch.nn.init.normal_(w, std=.3)
    w[len(w)//2:] *= .05
    return louder(net, 40.)
WORDS = dict(tokenizer=tokenizer, text_encoder=pooled_text)
add(
    host, 'StableCascadePriorPipeline', 't first', **PT, height=341, width=341, parts=WORDS
    | dict(prior=partial(cascade, clip_text_in_channels=16, clip_image_in_channels=16, switch_level=(False, )),
           scheduler=wuerstchen))
add(
    host, 'StableCascadeDecoderPipeline', 't first', **ASK, image_embeddings=partial(image, 4, 4),
    parts=WORDS | dict(decoder=partial(cascade, effnet_in_channels=4, patch_size=2), scheduler=wuerstchen, vqgan=None,
                       latent_dim_scale=4))
WU = dict(tokenizer=tokenizer, text_encoder=text, scheduler=wuerstchen)
add(
    host, 'WuerstchenPriorPipeline', 't first', **PT, height=341, width=341, parts=WU | dict(prior=lambda: soft(
        old('WuerstchenPrior', 'wuerstchen.modeling_wuerstchen_prior')
        (c_in=4, c=8, c_cond=16, c_r=8, depth=1, nhead=2, dropout=0.))))
add(
    host, 'WuerstchenDecoderPipeline', 't first', **ONE, output_type='latent', image_embeddings=partial(image, 4, 4),
    parts=WU | dict(
        vqgan=None, latent_dim_scale=4, decoder=lambda: soft(
            old('WuerstchenDiffNeXt', 'wuerstchen.modeling_wuerstchen_diffnext')
            (c_r=8, c_cond=16, c_hidden=[8, 8], nhead=[-1, 2], blocks=[1, 1], level_config=['CT', 'CTA'], inject_effnet=
             [False, True], effnet_embd=4, clip_embd=16, dropout=0.))))

PIXELS = dict(addition_embed_type_num_heads=2, encoder_hid_dim_type='text_proj', out_channels=6)
IF = SAFE | dict(unet=given('text', **PIXELS, in_channels=3), scheduler=partial(
    cosine, variance_type='learned_range', thresholding=True, sample_max_value=1.5), watermarker=None)
add(told, 'IFPipeline', parts=IF, output_type='pt', height=8, width=8, note=LEARNED)
add(told, 'IFImg2ImgPipeline', parts=IF, output_type='pt', image=partial(image, 8), note=LEARNED)
add(told, 'IFInpaintingPipeline', parts=IF, output_type='pt', image=partial(image, 8), mask_image=partial(half_mask, 8),
    note=LEARNED)
add(
    told, 'IFSuperResolutionPipeline', parts=IF
    | dict(unet=given('text', **PIXELS, in_channels=6, class_embed_type='timestep'), image_noising_scheduler=cosine),
    output_type='pt', image=partial(image, 4), height=8, width=8, note=LEARNED)
KOLORS = dict(
    vae=vae, unet=partial(unet, **XL | dict(cross_attention_dim=16), encoder_hid_dim=16,
                          encoder_hid_dim_type='text_proj'), scheduler=euler)
add(told, 'KolorsPipeline', parts=KOLORS, **LATENT, pooled_prompt_embeds=rows, negative_pooled_prompt_embeds=rows)
DIT = dict(
    transformer=lambda: diffusers.DiTTransformer2DModel(
        sample_size=8, num_layers=1, patch_size=2, attention_head_dim=4, num_attention_heads=2, in_channels=4,
        out_channels=8, norm_type='ada_norm_zero', num_embeds_ada_norm=1000, norm_elementwise_affine=False), vae=vae,
    scheduler=ddim)
add(host, 'DiTPipeline', 't first', parts=DIT, class_labels=[1, 7], output_type='pt',
    note='the formula takes the first half of the channels only, and the whole doubled batch is stepped')

NOISED = dict(net=dict(class_embed_type='projection', projection_class_embeddings_input_dim=32), safe={}, **WH)
NOISE = dict(image_normalizer=lambda: diffusers.pipelines.stable_diffusion.StableUnCLIPImageNormalizer(16),
             image_noising_scheduler=cosine)
TWO = 'two guided networks, each with a scale of its own: the prior with prior_guidance_scale, then this one'
add(sd, 'StableUnCLIPPipeline', **NOISED,
    parts=NOISE | dict(prior=prior, prior_text_encoder=pooled_text, prior_tokenizer=tokenizer, prior_scheduler=cosine),
    prior_num_inference_steps=2, note=TWO)
add(sd, 'StableUnCLIPImg2ImgPipeline', **NOISED, parts=NOISE | dict(image_encoder=eyes, feature_extractor=None),
    image_embeds=rows)
SUPER = dict(sample_size=8, in_channels=6, out_channels=3, layers_per_block=1, block_out_channels=(8, 8),
             norm_num_groups=4, down_block_types=DOWN[1:]*2, up_block_types=UP[:1]*2)
def bigger(): return diffusers.UNet2DModel(**SUPER)

add(
    host, 'UnCLIPPipeline', scale='decoder_guidance_scale', prompt=PROMPTS, output_type='np',
    prior_num_inference_steps=2, decoder_num_inference_steps=3, super_res_num_inference_steps=2, parts=WORDS | dict(
        prior=prior, prior_scheduler=unclip, decoder=partial(
            unet, **SIMPLE, in_channels=3, out_channels=6,
            class_embed_type='identity'), text_proj=lambda: old('UnCLIPTextProjModel', 'unclip.text_proj')
        (clip_embeddings_dim=16, time_embed_dim=32, cross_attention_dim=16), super_res_first=bigger,
        super_res_last=bigger, decoder_scheduler=partial(unclip, variance_type='learned_range',
                                                         prediction_type='epsilon'), super_res_scheduler=partial(
                                                             unclip, prediction_type='epsilon')),
    note=TWO + '; super-resolution calls without guidance follow; it takes no num_inference_steps')
add(
    host, 'PaintByExamplePipeline', **HOLE, example_image=image, output_type='latent', parts=SAFE | dict(
        vae=vae, unet=partial(unet, in_channels=9), scheduler=ddim,
        image_encoder=lambda: old('PaintByExampleImageEncoder', 'paint_by_example.image_encoder')
        (CLIPVisionConfig(**EYES), proj_size=16)))

def vocoder():
    return SpeechT5HifiGan(
        SpeechT5HifiGanConfig(model_in_dim=PX, upsample_initial_channel=8, upsample_rates=[2, 2],
                              upsample_kernel_sizes=[4, 4], resblock_kernel_sizes=[3], resblock_dilation_sizes=[[1]],
                              normalize_before=False))
def clap():
    words = dict(vocab_size=281, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
                 max_position_embeddings=64, pad_token_id=1)
    audio = dict(patch_embeds_hidden_size=8, depths=[1, 1], num_attention_heads=[1, 1], hidden_size=16, spec_size=16,
                 patch_size=4, patch_stride=[4, 4], window_size=2, num_mel_bins=16)
    return ClapModel(ClapConfig(projection_dim=16, text_config=words, audio_config=audio))

def speaker():
    return GPT2LMHeadModel(
        GPT2Config(vocab_size=8, bos_token_id=0, eos_token_id=0, n_positions=8, n_embd=8, n_layer=1, n_head=1))
SOUND = dict(vae=partial(vae, in_channels=1, out_channels=1), vocoder=vocoder, scheduler=ddim)
HEARD = partial(unet, class_embed_type='simple_projection', projection_class_embeddings_input_dim=16,
                class_embeddings_concat=True, cross_attention_dim=(8, 16))
add(host, 'AudioLDMPipeline', parts=WORDS | SOUND | dict(unet=HEARD), **SAY, output_type='np')
add(
    host, 'AudioLDM2Pipeline', output_type='latent', attention_mask=ones, negative_attention_mask=ones,
    **{a + b + 'prompt_embeds': partial(rows, 6)
       for a in ('', 'negative_')
       for b in ('', 'generated_')}, parts=SOUND | dict.fromkeys(
           ('text_encoder', 'projection_model', 'tokenizer', 'tokenizer_2', 'feature_extractor')) | dict(
               text_encoder_2=text, language_model=speaker, unet=lambda: louder(
                   diffusers.AudioLDM2UNet2DConditionModel(**UNET | dict(cross_attention_dim=((None, 16, 16), )*2)))))
add(host, 'MusicLDMPipeline',
    parts=SOUND | dict(text_encoder=clap, tokenizer=tokenizer, feature_extractor=None, unet=HEARD), prompt_embeds=rows,
    negative_prompt_embeds=rows, output_type='latent')

LEFT |= dict(
    KolorsImg2ImgPipeline='its call drops the pooled embeddings that it is given, so that it needs its own ChatGLM',
    StableDiffusionDiffEditPipeline=
    'its image latents must hold one latent for each step, so that they depend on the number of steps',
    KandinskyCombinedPipeline='calls two other pipelines', KandinskyV22CombinedPipeline='calls two other pipelines',
    StableCascadeCombinedPipeline='calls two other pipelines', WuerstchenCombinedPipeline='calls two other pipelines')
