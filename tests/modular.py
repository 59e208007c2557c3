"Tiny pipelines of Modular Diffusers with seeded random weights, from the prompt's words to latents"
import torch, diffusers as df, transformers as tf
from functools import cache
from types import SimpleNamespace
from tokenizers import Tokenizer, models, pre_tokenizers
from cf_guidance.pieces import MODELS
from diffusers.modular_pipelines.stable_diffusion_3.modular_blocks_stable_diffusion_3 import StableDiffusion3AutoBlocks
from diffusers.modular_pipelines.stable_diffusion_xl import modular_blocks_stable_diffusion_xl as blocks_xl
from diffusers.modular_pipelines.qwenimage.modular_blocks_qwenimage import QwenImageAutoBlocks
from diffusers.modular_pipelines.wan import encoders as wan_encoders
from diffusers.modular_pipelines.wan.modular_blocks_wan import WanBlocks
from diffusers.modular_pipelines.wan.modular_blocks_wan22 import Wan22Blocks

def model(cls, *args, **config):
    "A model whose every parameter is drawn, also those that start at zero, so that each layer passes its input on"
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        m = cls(*args, **config)
        for name, p in m.named_parameters():
            if p.dim() > 1: p.normal_(0, p[0].numel()**-.5)
            else: p.normal_(0, .1).add_(name.endswith('weight'))
    return m.eval().requires_grad_(False)

@cache
def letters():
    "A tokenizer with a token for each byte"
    words = sorted(pre_tokenizers.ByteLevel.alphabet())
    tok = Tokenizer(models.WordLevel({w: i for i, w in enumerate([*words, '<pad>', '<unk>'])}, '<unk>'))
    tok.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
         pre_tokenizers.Split('', 'isolated')])
    return tf.PreTrainedTokenizerFast(tokenizer_object=tok, pad_token='<pad>', unk_token='<unk>')

def clip_words(): return tf.CLIPTokenizer.from_pretrained(MODELS/'shapes'/'tokenizer')

def clip(width=8, pooled=8):
    "Config of a text encoder for the words of the built-in model"
    tok = clip_words()
    return tf.CLIPTextConfig(vocab_size=len(tok), hidden_size=width, intermediate_size=16, num_hidden_layers=2,
                             num_attention_heads=2, projection_dim=pooled, max_position_embeddings=tok.model_max_length,
                             bos_token_id=tok.bos_token_id, eos_token_id=tok.eos_token_id,
                             pad_token_id=tok.pad_token_id)

def vae(**config):
    return model(df.AutoencoderKL, block_out_channels=(4, 4), down_block_types=('DownEncoderBlock2D', )*2,
                 up_block_types=('UpDecoderBlock2D', )*2, latent_channels=4, norm_num_groups=2, sample_size=32,
                 **config)

def quiet(blocks):
    "No bars for the loops inside"
    if hasattr(blocks, 'set_progress_bar_config'): blocks.set_progress_bar_config(disable=True)
    for b in getattr(blocks, 'sub_blocks', {}).values(): quiet(b)

def assembled(blocks, call, **parts):
    "The pipeline of `blocks` without the decoder, and the arguments of a call that returns latents"
    blocks.sub_blocks.pop('decode')
    quiet(blocks)
    pipe = blocks.init_pipeline()
    pipe.update_components(**{k: v for k, v in parts.items() if k in pipe._component_specs})
    return pipe, dict(output='latents') | call

WORDS = dict(prompt='a red circle', negative_prompt='a blue square', num_inference_steps=6)

def sdxl(**parts):
    unet = model(df.UNet2DConditionModel, sample_size=8, block_out_channels=(8, 8), layers_per_block=1,
                 norm_num_groups=2, in_channels=4, out_channels=4, down_block_types=('DownBlock2D',
                                                                                     'CrossAttnDownBlock2D'),
                 up_block_types=('CrossAttnUpBlock2D', 'UpBlock2D'), attention_head_dim=(2,
                                                                                         2), use_linear_projection=True,
                 addition_embed_type='text_time', addition_time_embed_dim=4, transformer_layers_per_block=(1, 1),
                 projection_class_embeddings_input_dim=4*6 + 8, cross_attention_dim=16)
    scheduler = df.EulerDiscreteScheduler(beta_start=.00085, beta_end=.012, beta_schedule='scaled_linear',
                                          timestep_spacing='leading', steps_offset=1)
    return assembled(blocks_xl.StableDiffusionXLAutoBlocks(), WORDS | dict(height=16, width=16),
                     text_encoder=model(tf.CLIPTextModel, clip()), unet=unet, vae=vae(),
                     text_encoder_2=model(tf.CLIPTextModelWithProjection,
                                          clip()), tokenizer=clip_words(), tokenizer_2=clip_words(),
                     **dict(scheduler=scheduler) | parts)

def sd3(**parts):
    net = model(df.SD3Transformer2DModel, sample_size=8, patch_size=2, in_channels=4, out_channels=4, num_layers=2,
                attention_head_dim=4, num_attention_heads=2, joint_attention_dim=16, caption_projection_dim=8,
                pooled_projection_dim=16, pos_embed_max_size=8)
    t5 = model(tf.T5EncoderModel,
               tf.T5Config(vocab_size=len(letters()), d_model=16, d_kv=4, d_ff=16, num_layers=1, num_heads=2))
    return assembled(StableDiffusion3AutoBlocks(), WORDS | dict(height=16, width=16, max_sequence_length=16),
                     transformer=net, vae=vae(shift_factor=.1), text_encoder=model(tf.CLIPTextModelWithProjection,
                                                                                   clip()),
                     text_encoder_2=model(tf.CLIPTextModelWithProjection, clip()), text_encoder_3=t5,
                     tokenizer=clip_words(), tokenizer_2=clip_words(), tokenizer_3=letters(),
                     **dict(scheduler=df.FlowMatchEulerDiscreteScheduler(shift=3.)) | parts)

def wan_parts():
    # it mends broken text; ours is whole
    if not hasattr(wan_encoders, 'ftfy'): wan_encoders.ftfy = SimpleNamespace(fix_text=lambda text: text)
    umt5 = model(tf.UMT5EncoderModel,
                 tf.UMT5Config(vocab_size=len(letters()), d_model=16, d_kv=4, d_ff=16, num_layers=1, num_heads=2))
    net = lambda: model(df.WanTransformer3DModel, patch_size=(
        1, 2, 2), num_attention_heads=2, attention_head_dim=12, in_channels=16, out_channels=16, text_dim=16, freq_dim=
                        8, ffn_dim=16, num_layers=2, rope_max_seq_len=16)
    return dict(
        text_encoder=umt5, tokenizer=letters(), transformer=net(), transformer_2=net(),
        scheduler=df.UniPCMultistepScheduler(prediction_type='flow_prediction', use_flow_sigmas=True, flow_shift=3.))

VIDEO = WORDS | dict(height=32, width=32, num_frames=5, max_sequence_length=16)
def wan(**parts): return assembled(WanBlocks(), VIDEO, **wan_parts() | parts)
def wan22(**parts): return assembled(Wan22Blocks(), VIDEO, **wan_parts() | parts)

def qwen(**parts):
    net = model(df.QwenImageTransformer2DModel, in_channels=16, out_channels=4, num_layers=2, attention_head_dim=8,
                num_attention_heads=2, joint_attention_dim=16, axes_dims_rope=(2, 2, 4))
    text = dict(vocab_size=len(letters()), hidden_size=16, intermediate_size=16, num_hidden_layers=1,
                num_attention_heads=2, num_key_value_heads=2, bos_token_id=0, eos_token_id=1,
                rope_parameters=dict(rope_type='default', mrope_section=[1, 1, 2], rope_theta=10000.))
    vision = dict(depth=1, hidden_size=16, intermediate_size=16, num_heads=2, out_hidden_size=16)
    words = model(tf.Qwen2_5_VLForConditionalGeneration, tf.Qwen2_5_VLConfig(text_config=text, vision_config=vision))
    kl = model(df.AutoencoderKLQwenImage, base_dim=4, z_dim=4, dim_mult=[1, 1], num_res_blocks=1,
               temperal_downsample=[False], latents_mean=[0.]*4, latents_std=[1.]*4)
    return assembled(QwenImageAutoBlocks(), WORDS | dict(height=16, width=16), transformer=net, vae=kl,
                     text_encoder=words, tokenizer=letters(),
                     **dict(scheduler=df.FlowMatchEulerDiscreteScheduler(shift=3., use_dynamic_shifting=True)) | parts)

HOSTS = dict(sdxl=sdxl, sd3=sd3, wan=wan, qwen=qwen)
