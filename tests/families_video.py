"Tiny pipelines with random weights: the video, audio and 3D families of diffusers"
from functools import wraps
from inspect import signature
from pathlib import Path
import numpy as np, torch
from PIL import Image
from torch import nn
import diffusers as df, cf_guidance
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from diffusers.pipelines.ltx2.connectors import LTX2TextConnectors
from diffusers.pipelines.ace_step.modeling_ace_step import AceStepConditionEncoder
from diffusers.pipelines.stable_audio.modeling_stable_audio import StableAudioProjectionModel
from diffusers.pipelines.shap_e.renderer import ShapERenderer
from transformers import CLIPImageProcessor, CLIPTextConfig, CLIPTextModelWithProjection, CLIPTokenizer
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection
from transformers import Qwen3Config, Qwen3Model

# SCALE is '' where the scale is no argument of the call, but the guider's
FAMILIES, SCALE, FORMULA, AFTER = {}, {}, {}, {}
LEFT = dict(ConsisIDPipeline='not built: needs face embeddings; u first',
            AudioLDM2Pipeline='not built: needs GPT-2 and CLAP; u first',
            HunyuanVideoImageToVideoPipeline='not built: needs Llava; two calls t first',
            WanAnimatePipeline='not built: needs poses, faces and an image encoder; two calls t first',
            Cosmos2VideoToWorldPipeline='not built: two calls t first, then t + s (t - u) of predictions of x0',
            LTXI2VLongMultiPromptPipeline='not built: u first', StableAudio3Pipeline='not built: u first',
            AnyFlowPipeline='not built: u first', AnimateDiffSparseControlNetPipeline='not built: u first',
            HeliosPipeline='not built: two calls t first', ChronoEditPipeline='not built: two calls t first',
            LongCatAudioDiTPipeline='not built: two calls t first')
WIDTH, LENGTH = 16, 5

def family(name, formula='u first', scale='guidance_scale', after=''):
    "Register a function that makes a pipeline and the arguments of its call"
    def reg(f):
        @wraps(f)
        def make():
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                pipe, kw = f()
            pipe.set_progress_bar_config(disable=True)
            return pipe, dict(dict(output_type='latent'), **kw)
        FAMILIES[name], SCALE[name], FORMULA[name] = make, scale, formula
        if after: AFTER[name] = after
        return make
    return reg

def randomise(net):
    "Draw every parameter, those that start at zero too, so that each layer passes its input on"
    for n, p in net.named_parameters():
        if p.ndim > 1: nn.init.normal_(p, 0, p[0].numel()**-.5)
        else: nn.init.normal_(p, 1. if n.endswith('weight') else 0., .1)
    return net.eval().requires_grad_(False)

def heads(dim, layers=1): return dict(num_attention_heads=2, attention_head_dim=dim, num_layers=layers)

def net(cls, **cfg): return randomise(cls(**cfg))

def build(cls, **parts):
    "A pipeline without tokenizers and text encoders, but for those among `parts`"
    return cls(**{k: None
                  for k in signature(cls.__init__).parameters
                  if k.startswith(('tokenizer', 'text_encoder'))} | parts)

def flow(**cfg): return df.FlowMatchEulerDiscreteScheduler(**cfg)

def text(n=2, dim=WIDTH, mask=None, **extra):
    "Embeddings of `n` prompts and of as many negative prompts, with masks if their name is given"
    e = {f'{k}prompt_embeds': torch.randn(n, LENGTH, dim) for k in ('', 'negative_')}
    if mask: e |= {f'{k}{mask}': torch.ones(n, LENGTH, dtype=torch.long) for k in ('', 'negative_')}
    return e | extra

def masked(num_frames=9, height=16, width=32, **extra):
    return text(mask='prompt_attention_mask', num_frames=num_frames, height=height, width=width, **extra)

def images(n, size=16, wide=None):
    return [
        Image.fromarray(o)
        for o in np.random.default_rng(0).integers(0, 255, (n, size, wide or size, 3), dtype=np.uint8)
    ]

def videos(n, frames, size=16, wide=None):
    o = images(n*frames, size, wide)
    return [o[i*frames:(i + 1)*frames] for i in range(n)]

# U-Nets

SMALL = dict(num_frames=3, height=8, width=8)

def kl(): return net(df.AutoencoderKL, block_out_channels=(4, 8), norm_num_groups=2, latent_channels=4, sample_size=8,
    down_block_types=['DownEncoderBlock2D']*2, up_block_types=['UpDecoderBlock2D']*2)

def blocks(end):
    return dict(sample_size=4, block_out_channels=(4, 8), layers_per_block=1,
                down_block_types=(f'CrossAttnDownBlock{end}', f'DownBlock{end}'),
                up_block_types=(f'UpBlock{end}', f'CrossAttnUpBlock{end}'), cross_attention_dim=WIDTH)

def ddim(): return df.DDIMScheduler(beta_schedule='linear', clip_sample=False)

def animate(cls, channels=4, unet={}, **parts):
    motion = df.MotionAdapter(block_out_channels=(4, 8), motion_layers_per_block=1, motion_norm_num_groups=2,
                              motion_num_attention_heads=2, conv_in_channels=channels if channels != 4 else None)
    unet = df.UNet2DConditionModel(**blocks('2D'), norm_num_groups=2, attention_head_dim=2, **unet)
    pipe = build(cls, vae=kl(), unet=unet, motion_adapter=motion, scheduler=ddim(), **parts)
    randomise(pipe.unet)
    return pipe

@family('AnimateDiffPipeline')
def _(): return animate(df.AnimateDiffPipeline), text(**SMALL)

@family('AnimateDiffSDXLPipeline', after='guidance_rescale, when above 0')
def _():
    sdxl = dict(addition_embed_type='text_time', addition_time_embed_dim=4,
                projection_class_embeddings_input_dim=6*4 + WIDTH)
    pooled = dict(pooled_prompt_embeds=torch.randn(2, WIDTH), negative_pooled_prompt_embeds=torch.randn(2, WIDTH))
    return animate(df.AnimateDiffSDXLPipeline, unet=sdxl), text(**SMALL, **pooled)

@family('AnimateDiffVideoToVideoPipeline')
def _(): return animate(df.AnimateDiffVideoToVideoPipeline), text(video=videos(2, 3, 8), height=8, width=8)

def control():
    down = ('CrossAttnDownBlock2D', 'DownBlock2D')
    return net(df.ControlNetModel, block_out_channels=(4, 8), layers_per_block=1, down_block_types=down,
               norm_num_groups=2, attention_head_dim=2, cross_attention_dim=WIDTH,
               conditioning_embedding_out_channels=(4, 4))

@family('AnimateDiffControlNetPipeline')
def _():
    return animate(df.AnimateDiffControlNetPipeline, controlnet=control()), text(1, conditioning_frames=images(3, 8),
                                                                                 **SMALL)

@family('AnimateDiffVideoToVideoControlNetPipeline')
def _():
    return animate(df.AnimateDiffVideoToVideoControlNetPipeline,
                   controlnet=control()), text(1, video=images(3, 8), conditioning_frames=images(3, 8), height=8,
                                               width=8)

def vision(): return net(lambda **c: CLIPVisionModelWithProjection(CLIPVisionConfig(**c)), image_size=16, patch_size=8,
    hidden_size=WIDTH, projection_dim=WIDTH, intermediate_size=WIDTH, num_hidden_layers=1, num_attention_heads=2)

@family('StableVideoDiffusionPipeline', scale='max_guidance_scale', after='one scale for each frame, '
                                                                          'min_guidance_scale to max_guidance_scale')
def _():
    unet = net(df.UNetSpatioTemporalConditionModel,
               **blocks('SpatioTemporal') | dict(block_out_channels=(32, 32)), num_attention_heads=(2, 2),
               addition_time_embed_dim=4, projection_class_embeddings_input_dim=12, num_frames=3)
    vae = net(df.AutoencoderKLTemporalDecoder, block_out_channels=(32, 32), down_block_types=('DownEncoderBlock2D',)*2)
    scheduler = df.EulerDiscreteScheduler(beta_schedule='scaled_linear', beta_start=.00085, beta_end=.012,
                                          prediction_type='v_prediction', interpolation_type='linear',
                                          use_karras_sigmas=True, sigma_min=.002, sigma_max=700.,
                                          timestep_type='continuous', timestep_spacing='leading', steps_offset=1)
    pipe = build(df.StableVideoDiffusionPipeline, vae=vae, image_encoder=vision(), unet=unet, scheduler=scheduler,
        feature_extractor=CLIPImageProcessor())
    return pipe, dict(image=torch.rand(2, 3, 16, 16), num_frames=3, height=16, width=16)

def unet3d(cls, **cfg): return net(cls, **blocks('3D') | dict(block_out_channels=(32, 64)), attention_head_dim=8, **cfg)

def sd3d(cls): return build(cls, vae=kl(), unet=unet3d(df.UNet3DConditionModel), scheduler=ddim())

@family('TextToVideoSDPipeline')
def _(): return sd3d(df.TextToVideoSDPipeline), text(**SMALL)
@family('VideoToVideoSDPipeline')
def _(): return sd3d(df.VideoToVideoSDPipeline), text(1, video=videos(1, 3, 8), strength=.8)

@family('I2VGenXLPipeline')
def _():
    vae = kl()
    vae.encode = lambda x: df.models.modeling_outputs.AutoencoderKLOutput(
        DiagonalGaussianDistribution(vae._encode(x), deterministic=True))
    pipe = build(df.I2VGenXLPipeline, vae=vae, image_encoder=vision(), unet=unet3d(df.I2VGenXLUNet), scheduler=ddim(),
        feature_extractor=CLIPImageProcessor(crop_size=16, size=16))
    return pipe, text(image=images(2), num_frames=3, height=16, width=16)

@family('PIAPipeline')
def _(): return animate(df.PIAPipeline, 9), text(image=images(2, 8), **SMALL)

# CogVideoX

WIDE = dict(num_frames=9, height=16, width=32)

def cog(cls, channels=4):
    transformer = net(df.CogVideoXTransformer3DModel, **heads(16), in_channels=channels, out_channels=4,
                      time_embed_dim=4, text_embed_dim=WIDTH, sample_width=4, sample_height=2, sample_frames=9,
                      max_text_seq_length=LENGTH, use_rotary_positional_embeddings=True)
    vae = net(df.AutoencoderKLCogVideoX, block_out_channels=(8, 8, 8, 8), latent_channels=4, layers_per_block=1,
              norm_num_groups=2)
    return build(cls, vae=vae, transformer=transformer, scheduler=df.CogVideoXDDIMScheduler())

@family('CogVideoXPipeline')
def _(): return cog(df.CogVideoXPipeline), text(**WIDE)
@family('CogVideoXPipeline+dynamic', after='the scale changes at each step (use_dynamic_cfg)')
def _(): return cog(df.CogVideoXPipeline), text(**WIDE, use_dynamic_cfg=True)

@family('CogVideoXPipeline+dpm', after='a multistep scheduler whose step takes the last prediction of x0 and returns '
                                       'two values')
def _():
    pipe, kw = cog(df.CogVideoXPipeline), text(**WIDE)
    pipe.scheduler = df.CogVideoXDPMScheduler.from_config(pipe.scheduler.config)
    return pipe, kw

@family('CogVideoXImageToVideoPipeline')
def _(): return cog(df.CogVideoXImageToVideoPipeline, 8), text(image=images(2, 16, 32), **WIDE)
@family('CogVideoXVideoToVideoPipeline')
def _(): return cog(df.CogVideoXVideoToVideoPipeline), text(video=videos(2, 9, 16, 32), height=16, width=32)
@family('CogVideoXFunControlPipeline')
def _(): return cog(df.CogVideoXFunControlPipeline, 8), text(control_video=videos(2, 9, 16, 32), height=16, width=32)

# LTX

def ltx(cls):
    transformer = net(df.LTXVideoTransformer3DModel, **heads(8), in_channels=8, out_channels=8, cross_attention_dim=16,
                      caption_channels=WIDTH)
    vae = net(df.AutoencoderKLLTXVideo, latent_channels=8, block_out_channels=(8, )*4,
              decoder_block_out_channels=(8, )*4, layers_per_block=(1, )*5, decoder_layers_per_block=(1, )*5,
              spatio_temporal_scaling=(True, True, False, False),
              decoder_spatio_temporal_scaling=(True, True, False, False))
    return build(cls, vae=vae, transformer=transformer, scheduler=flow())

@family('LTXPipeline', after='guidance_rescale, when above 0')
def _(): return ltx(df.LTXPipeline), masked(height=32)
@family('LTXImageToVideoPipeline', after='guidance_rescale, when above 0; the first frame of the prediction is not '
                                         'used')
def _(): return ltx(df.LTXImageToVideoPipeline), masked(height=32, image=images(2, 32))
@family('LTXConditionPipeline', after='guidance_rescale, when above 0; the prediction is negated; tokens of the '
                                      'condition are not stepped')
def _(): return ltx(df.LTXConditionPipeline), masked(height=32, image=images(1, 32)[0])

@family('LTX2Pipeline', after='two outputs, video and audio, each with its scale (here the same), of predictions of '
                              'x0; guidance_rescale (here 0)')
def _():
    transformer = net(df.LTX2VideoTransformer3DModel, **heads(8), in_channels=4, out_channels=4, cross_attention_dim=16,
                      vae_scale_factors=(4, 16, 16), audio_in_channels=4, audio_out_channels=4,
                      audio_num_attention_heads=2, audio_attention_head_dim=4, audio_cross_attention_dim=8,
                      caption_channels=WIDTH, rope_double_precision=False)
    parts = {
        f'{k}_connector_{a}': v
        for k in ('video', 'audio')
        for a, v in (heads(8) | dict(num_learnable_registers=None)).items()
    }
    connectors = net(LTX2TextConnectors, caption_channels=WIDTH, text_proj_in_factor=2, rope_double_precision=False,
                     **parts)
    vae = net(df.AutoencoderKLLTX2Video, latent_channels=4, block_out_channels=(8, ),
              down_block_types=('LTX2VideoDownBlock3D', ), decoder_block_out_channels=(8, ), layers_per_block=(1, 1),
              decoder_layers_per_block=(1, 1), spatio_temporal_scaling=(True, ),
              decoder_spatio_temporal_scaling=(True, ), decoder_inject_noise=(False, False),
              downsample_type=('spatial', ), upsample_residual=(False, ), upsample_factor=(1, ),
              upsample_type=('spatiotemporal', ), spatial_compression_ratio=16, temporal_compression_ratio=4)
    audio = net(df.AutoencoderKLLTX2Audio, base_channels=4, ch_mult=(1, ), num_res_blocks=1, resolution=32,
                latent_channels=2, mel_bins=8)
    pipe = build(df.LTX2Pipeline, scheduler=flow(), vae=vae, audio_vae=audio, connectors=connectors,
                 transformer=transformer, vocoder=None)
    off = {
        f'{k}{a}': v
        for k in ('', 'audio_')
        for a, v in dict(stg_scale=0., modality_scale=1., guidance_rescale=0.).items()
    }
    return pipe, masked(height=32, dim=2*WIDTH, audio_guidance_scale=None, **off)

# Wan and SkyReels

def wan_net(cls=df.WanTransformer3DModel, in_channels=16, **kw):
    return net(cls, **heads(12), in_channels=in_channels, out_channels=16, text_dim=WIDTH, freq_dim=16, ffn_dim=16,
               rope_max_seq_len=32, **kw)

def wan_vae(): return net(df.AutoencoderKLWan, base_dim=3, z_dim=16, dim_mult=[1, 1, 1, 1], num_res_blocks=1)

def unipc(): return df.UniPCMultistepScheduler(prediction_type='flow_prediction', use_flow_sigmas=True, flow_shift=3.)

def wan(cls, scheduler=None, **parts): return build(cls, vae=wan_vae(), scheduler=scheduler or flow(shift=3.), **parts)

@family('WanPipeline', 'two calls t first')
def _(): return wan(df.WanPipeline, transformer=wan_net()), text(**WIDE)
@family('WanPipeline+two', 'two calls t first', after='a second transformer below boundary_ratio, with '
                                                      'guidance_scale_2 (by default the same)')
def _():
    return wan(df.WanPipeline, unipc(), transformer=wan_net(), transformer_2=wan_net(), boundary_ratio=.7), text(**WIDE)
@family('WanPipeline+tokens', 'two calls t first', after='a timestep for each token (expand_timesteps)')
def _(): return wan(df.WanPipeline, unipc(), transformer=wan_net(), expand_timesteps=True), text(**WIDE)
@family('WanImageToVideoPipeline', 'two calls t first')
def _():
    return wan(df.WanImageToVideoPipeline,
               transformer=wan_net(in_channels=36)), text(image=images(1, 16, 32)[0], **WIDE)
@family('WanVideoToVideoPipeline', 'two calls t first')
def _():
    return wan(df.WanVideoToVideoPipeline, unipc(), transformer=wan_net()), text(video=videos(2, 9, 16, 32), height=16,
                                                                                 width=32)
@family('LucyEditPipeline', 'two calls t first')
def _(): return wan(df.LucyEditPipeline, transformer=wan_net(in_channels=32)), text(video=videos(2, 9, 16, 32), **WIDE)

@family('WanVACEPipeline', 'two calls t first')
def _():
    transformer = wan_net(df.WanVACETransformer3DModel, vace_layers=[0], vace_in_channels=96)
    return wan(df.WanVACEPipeline, transformer=transformer), text(1, video=videos(1, 9, 16, 32)[0], **WIDE)

# Hunyuan

def hunyuan_vae():
    return net(df.AutoencoderKLHunyuanVideo, latent_channels=4, block_out_channels=(8, )*4, layers_per_block=1,
               norm_num_groups=4)

def hunyuan():
    transformer = net(df.HunyuanVideoTransformer3DModel, in_channels=4, out_channels=4, **heads(10),
                      num_single_layers=1, num_refiner_layers=1, patch_size=1, text_embed_dim=WIDTH,
                      pooled_projection_dim=8, rope_axes_dim=(2, 4, 4))
    return build(df.HunyuanVideoPipeline, vae=hunyuan_vae(), transformer=transformer, scheduler=flow(shift=7.))

def hunyuan_text(negative):
    both = masked(width=16) | {f'{k}pooled_prompt_embeds': torch.randn(2, 8) for k in ('', 'negative_')}
    return both if negative else {k: v for k, v in both.items() if not k.startswith('negative_')}

@family('HunyuanVideoPipeline', 'none')
def _(): return hunyuan(), hunyuan_text(False)
@family('HunyuanVideoPipeline+true', 'two calls t first', 'true_cfg_scale', after='the embedded guidance_scale acts '
                                                                                  'too')
def _(): return hunyuan(), hunyuan_text(True)

@family('HunyuanVideo15Pipeline', 'guider', '', after='two calls, the conditional first; the scale is '
                                                      'pipe.guider.guidance_scale')
def _():
    transformer = net(df.HunyuanVideo15Transformer3DModel, in_channels=9, out_channels=4, **heads(8),
                      num_refiner_layers=1, text_embed_dim=WIDTH, text_embed_2_dim=8, image_embed_dim=8,
                      rope_axes_dim=(2, 2, 4), target_size=16, task_type='t2v')
    vae = net(df.AutoencoderKLHunyuanVideo15, latent_channels=4, block_out_channels=(16,)*5, layers_per_block=1)
    pipe = build(df.HunyuanVideo15Pipeline, vae=vae, transformer=transformer, scheduler=flow(shift=7.),
        guider=df.ClassifierFreeGuidance(guidance_scale=5.))
    pipe.vision_num_semantic_tokens = 3
    one = lambda k: {
        f'{k}prompt_embeds': torch.randn(2, LENGTH, WIDTH), f'{k}prompt_embeds_mask': torch.ones(2, LENGTH),
        f'{k}prompt_embeds_2': torch.randn(2, LENGTH, 8), f'{k}prompt_embeds_mask_2': torch.ones(2, LENGTH)
    }
    return pipe, one('') | one('negative_') | dict(num_frames=9, height=32, width=32)

# Mochi, Allegro, Latte

@family('MochiPipeline')
def _():
    transformer = net(df.MochiTransformer3DModel, **heads(8, 2), pooled_projection_dim=8, in_channels=12,
                      text_embed_dim=WIDTH, time_embed_dim=4)
    vae = net(df.AutoencoderKLMochi, encoder_block_out_channels=(32, )*4, decoder_block_out_channels=(32, )*4,
              layers_per_block=(1, )*5)
    return build(df.MochiPipeline, vae=vae, transformer=transformer, scheduler=flow(invert_sigmas=True)), masked(13)

@family('AllegroPipeline')
def _():
    transformer = net(df.AllegroTransformer3DModel, **heads(12), cross_attention_dim=24, sample_height=2,
                      sample_width=4, sample_frames=3, caption_channels=WIDTH)
    vae = net(df.AutoencoderKLAllegro, block_out_channels=(8,)*4, layers_per_block=1, norm_num_groups=2)
    pipe = build(df.AllegroPipeline, vae=vae, transformer=transformer, scheduler=df.EulerAncestralDiscreteScheduler())
    return pipe, masked(negative_prompt=None)

@family('LattePipeline', after='half of the channels, a learned sigma, is cut off')
def _():
    transformer = net(df.LatteTransformer3DModel, **heads(8), in_channels=4, out_channels=8, cross_attention_dim=16,
                      attention_bias=True, sample_size=4, patch_size=2, activation_fn='gelu-approximate',
                      num_embeds_ada_norm=1000, norm_type='ada_norm_single', norm_elementwise_affine=False,
                      norm_eps=1e-6, caption_channels=WIDTH, video_length=3)
    pipe = build(df.LattePipeline, vae=kl(), transformer=transformer, scheduler=ddim())
    return pipe, text(negative_prompt=None, video_length=3, height=8, width=8)

# EasyAnimate, SkyReels, Cosmos, Kandinsky 5, Sana, Motif

@family('EasyAnimatePipeline', after='guidance_rescale, when above 0')
def _():
    transformer = net(df.EasyAnimateTransformer3DModel, **heads(16), in_channels=4, out_channels=4, time_embed_dim=4,
                      text_embed_dim=WIDTH, mmdit_layers=1, sample_width=4, sample_height=2, patch_size=2)
    vae = net(df.AutoencoderKLMagvit, latent_channels=4, block_out_channels=[8]*4, layers_per_block=1,
              norm_num_groups=2)
    return build(df.EasyAnimatePipeline, vae=vae, transformer=transformer, scheduler=flow()), masked()

def skyreels(cls): return wan(cls, unipc(), transformer=wan_net(df.SkyReelsV2Transformer3DModel))

@family('SkyReelsV2Pipeline', 'two calls t first')
def _(): return skyreels(df.SkyReelsV2Pipeline), text(**WIDE)
@family('SkyReelsV2DiffusionForcingPipeline', 'two calls t first', after='a scheduler and a timestep for each latent '
                                                                         'frame')
def _(): return skyreels(df.SkyReelsV2DiffusionForcingPipeline), text(prompt=None, base_num_frames=9, ar_step=0, **WIDE)

class Unchecked(df.ModelMixin):
    def __init__(self):
        super().__init__()
        self.nothing = nn.Parameter(torch.zeros(1))

@family('CosmosTextToWorldPipeline', 'two calls t first', after='the formula is t + s (t - u), of predictions of x0 '
                                                                'made by scheduler.step')
def _():
    transformer = net(df.CosmosTransformer3DModel, in_channels=4, out_channels=4, **heads(16), mlp_ratio=2,
                      text_embed_dim=WIDTH, adaln_lora_dim=4, max_size=(4, 8, 8), concat_padding_mask=False)
    vae = net(df.AutoencoderKLCosmos, latent_channels=4, encoder_block_out_channels=(8, )*4,
              decode_block_out_channels=(8, )*4, attention_resolutions=(8, ), resolution=64, num_layers=1)
    scheduler = df.EDMEulerScheduler(sigma_min=.002, sigma_max=80., sigma_data=.5, final_sigmas_type='sigma_min')
    pipe = build(df.CosmosTextToWorldPipeline, transformer=transformer, vae=vae, scheduler=scheduler,
                 safety_checker=Unchecked())
    return pipe, text(num_frames=17, height=16, width=32)

@family('Kandinsky5T2VPipeline', 'two calls t first', after='channels are the last axis')
def _():
    transformer = net(df.Kandinsky5Transformer3DModel, in_visual_dim=4, in_text_dim=WIDTH, in_text_dim2=8, time_dim=8,
                      out_visual_dim=4, model_dim=16, ff_dim=16, num_text_blocks=1, num_visual_blocks=1,
                      axes_dims=(4, 6, 6), visual_cond=True)
    pipe = build(df.Kandinsky5T2VPipeline, transformer=transformer, vae=hunyuan_vae(), scheduler=flow(shift=5.))
    one = lambda k: {
        f'{k}prompt_embeds_qwen': torch.randn(2, LENGTH, WIDTH), f'{k}prompt_embeds_clip': torch.randn(2, 8),
        f'{k}prompt_cu_seqlens': torch.tensor([0, LENGTH, 2*LENGTH], dtype=torch.int32)
    }
    return pipe, one('') | one('negative_') | WIDE

@family('SanaVideoPipeline')
def _():
    transformer = net(df.SanaVideoTransformer3DModel, **heads(12), num_cross_attention_heads=2,
                      cross_attention_head_dim=12, cross_attention_dim=24, caption_channels=WIDTH)
    scheduler = df.DPMSolverMultistepScheduler(prediction_type='flow_prediction', use_flow_sigmas=True, flow_shift=3.)
    pipe = build(df.SanaVideoPipeline, vae=wan_vae(), transformer=transformer, scheduler=scheduler)
    kw = masked(height=32, frames=9, negative_prompt=None, use_resolution_binning=False)
    return pipe, {k: v for k, v in kw.items() if k != 'num_frames'}

@family('MotifVideoPipeline', 'guider', '', after='two calls, the conditional first; the scale is '
                                                  'pipe.guider.guidance_scale')
def _():
    transformer = net(df.MotifVideoTransformer3DModel, **heads(16), num_single_layers=1, text_embed_dim=WIDTH,
                      rope_axes_dim=(4, 6, 6))
    pipe = build(df.MotifVideoPipeline, vae=wan_vae(), transformer=transformer, scheduler=flow(),
                 guider=df.ClassifierFreeGuidance(guidance_scale=5.))
    return pipe, masked()

# Audio and 3D

def oobleck():
    return net(df.AutoencoderOobleck, encoder_hidden_size=8, downsampling_ratios=[1, 2], channel_multiples=[1, 1],
               decoder_channels=8, decoder_input_channels=8, sampling_rate=8)

def tokenizer(): return CLIPTokenizer.from_pretrained(Path(cf_guidance.__file__).parent/'models/shapes/tokenizer')

@family('StableAudioPipeline')
def _():
    transformer = net(df.StableAudioDiTModel, **heads(8), sample_size=8, in_channels=8, out_channels=8,
                      num_key_value_attention_heads=1, cross_attention_dim=16, time_proj_dim=8,
                      global_states_input_dim=2*WIDTH, cross_attention_input_dim=WIDTH)
    projection = net(StableAudioProjectionModel, text_encoder_dim=WIDTH, conditioning_dim=WIDTH, min_value=0,
                     max_value=8)
    pipe = build(
        df.StableAudioPipeline, vae=oobleck(), projection_model=projection, transformer=transformer,
        scheduler=df.EDMDPMSolverMultistepScheduler(solver_order=2, prediction_type='v_prediction', sigma_data=1.,
                                                    sigma_schedule='exponential', sigma_min=.3, sigma_max=500.))
    ones = {f'{k}attention_mask': torch.ones(2, LENGTH, dtype=torch.long) for k in ('', 'negative_')}
    return pipe, text(audio_end_in_s=2., **ones)

@family('ShapEPipeline', after='a learned sigma is cut off before the formula; Heun, so two calls to a step')
def _():
    prior = net(df.PriorTransformer, **heads(8), embedding_dim=8, num_embeddings=4, additional_embeddings=0,
                time_embed_act_fn='gelu', norm_in_type='layer', embedding_proj_norm_type=None,
                encoder_hid_proj_type=None, added_emb_type=None, time_embed_dim=16, embedding_proj_dim=WIDTH,
                clip_embed_dim=16)
    tok = tokenizer()
    encoder = net(lambda **c: CLIPTextModelWithProjection(CLIPTextConfig(**c)), vocab_size=len(tok), hidden_size=WIDTH,
                  projection_dim=WIDTH, intermediate_size=WIDTH, num_hidden_layers=1, num_attention_heads=2,
                  max_position_embeddings=tok.model_max_length, bos_token_id=tok.bos_token_id,
                  eos_token_id=tok.eos_token_id)
    scheduler = df.HeunDiscreteScheduler(beta_schedule='exp', prediction_type='sample', use_karras_sigmas=True,
                                         clip_sample=True)
    renderer = ShapERenderer(param_shapes=((8, 93),) + ((8, 8),)*3, d_latent=8, d_hidden=8)
    pipe = build(df.ShapEPipeline, prior=prior, text_encoder=encoder, tokenizer=tok, scheduler=scheduler,
                 shap_e_renderer=renderer)
    return pipe, dict(prompt=['a red circle', 'a blue square'])

@family('AceStepPipeline', 't first', after='not the plain formula: adaptive projected guidance with momentum')
def _():
    tok, cfg = tokenizer(), dict(hidden_size=WIDTH, intermediate_size=WIDTH, num_attention_heads=2,
                                 num_key_value_heads=1, head_dim=8)
    transformer = net(df.AceStepTransformer1DModel, **cfg, num_hidden_layers=1, in_channels=24,
                      audio_acoustic_hidden_dim=8)
    encoder = net(AceStepConditionEncoder, **cfg, text_hidden_dim=WIDTH, timbre_hidden_dim=8,
                  num_lyric_encoder_hidden_layers=1, num_timbre_encoder_hidden_layers=1)
    words = net(lambda **c: Qwen3Model(Qwen3Config(**c)), **cfg, vocab_size=len(tok), num_hidden_layers=1)
    pipe = build(df.AceStepPipeline, vae=oobleck(), text_encoder=words, tokenizer=tok, transformer=transformer,
                 condition_encoder=encoder, scheduler=flow(num_train_timesteps=1, shift=1.))
    return pipe, dict(prompt=['a red circle', 'a blue square'], lyrics=['', ''], audio_duration=2.)
