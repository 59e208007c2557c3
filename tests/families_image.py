"Tiny transformer pipelines of diffusers with seeded random weights, for the tests of guidance in other people's pipelines"
import inspect, torch, diffusers as df
from types import SimpleNamespace
from PIL import Image

FAMILIES, SCALE, FORMULA, AFTER, LEFT = {}, {}, {}, {}, {}

def family(name, formula='u first', after='', scale='guidance_scale'):
    "Enter a maker in the tables: where its scale is, its formula, and what the pipeline does after the formula"
    def _inner(f):
        FAMILIES[name], SCALE[name], FORMULA[name] = f, scale, formula
        if after: AFTER[name] = after
        return f
    return _inner

def model(cls, **config):
    "A model with seeded parameters none of which is zero: many classes start with gates or last layers at zero"
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        m = getattr(df, cls)(**config)
        for name, p in m.named_parameters():
            if p.dim() > 1: p.normal_(0, max(.1, p[0].numel()**-.5))
            else: p.normal_(0, .1).add_(name.endswith(('weight', 'scale')))
    return m.eval().requires_grad_(False)

def noise(*shape, seed=0): return torch.randn(shape, generator=torch.Generator().manual_seed(seed))
def image(size, n=2): return noise(n, 3, size, size, seed=9).sigmoid()
def hole(size, n=2): return (torch.arange(size) < size//2).float().expand(n, 1, size, size).clone()

def text(dim, length=5, mask=None, pooled=None, end='', n=2):
    "Embeddings of `n` prompts and of `n` negative prompts, with the names that pipelines give them"
    kw = {}
    for k, sign in enumerate(('', 'negative_')):
        kw[f'{sign}prompt_embeds{end}'] = noise(n, length, dim, seed=k)
        if mask: kw[f'{sign}prompt_{mask}{end}'] = (torch.arange(length) < length - k).long().expand(n, -1).clone()
        if pooled: kw[f'{sign}pooled_prompt_embeds{end}'] = noise(n, pooled, seed=2 + k)
    return kw

def vae(channels=4, blocks=2, **kwargs):
    return model('AutoencoderKL', block_out_channels=(4, )*blocks, down_block_types=('DownEncoderBlock2D', )*blocks,
                 up_block_types=('UpDecoderBlock2D', )*blocks, latent_channels=channels, norm_num_groups=2,
                 sample_size=16, **kwargs)

def still(vae):
    "The same VAE with an encoder that adds no noise: ControlNet pipelines sample it from the global generator"
    encode = vae.encode
    def _encode(x):
        res = encode(x)
        res.latent_dist.std = res.latent_dist.std*0
        return res
    vae.encode = _encode
    return vae

def pipeline(name, size, kw, **parts):
    "The pipeline with every part that it wants and that is not given set to None, and the arguments of its call"
    cls = getattr(df, name) if isinstance(name, str) else name
    for k, p in inspect.signature(cls.__init__).parameters.items():
        if p.default is inspect.Parameter.empty and k not in ('self', 'args', 'kwargs'): parts.setdefault(k, None)
    pipe = cls(**parts)
    pipe.set_progress_bar_config(disable=True)
    return pipe, dict(height=size, width=size, output_type='latent') | kw

DIT = dict(num_layers=1, num_single_layers=1, attention_head_dim=8, num_attention_heads=2, joint_attention_dim=8)

def euler(**kwargs): return df.FlowMatchEulerDiscreteScheduler(**kwargs)

def flow_dpm():
    return df.DPMSolverMultistepScheduler(prediction_type='flow_prediction', use_flow_sigmas=True, flow_shift=3.)

# Stable Diffusion 3
def sd3(name, channels=4, kw={}, **parts):
    dims = dict(sample_size=4, patch_size=2, in_channels=channels, num_layers=2, attention_head_dim=4,
                num_attention_heads=2, joint_attention_dim=8, caption_projection_dim=8, pooled_projection_dim=6,
                out_channels=channels, pos_embed_max_size=8)
    if 'ControlNet' in name: parts['controlnet'] = model('SD3ControlNetModel', **dims | dict(num_layers=1))
    return pipeline(name, 8,
                    text(8, pooled=6) | kw, transformer=model('SD3Transformer2DModel', **dims),
                    scheduler=euler(shift=3.), vae=still(vae(channels, shift_factor=.1)), **parts)

@family('StableDiffusion3Pipeline', after='skip-layer guidance makes a third, undoubled call when '
                                          '`skip_guidance_layers` is given')
def sd3_text(): return sd3('StableDiffusion3Pipeline')
@family('StableDiffusion3Img2ImgPipeline')
def sd3_img2img(): return sd3('StableDiffusion3Img2ImgPipeline', kw=dict(image=image(8), strength=.75))
@family('StableDiffusion3InpaintPipeline')
def sd3_inpaint():
    return sd3('StableDiffusion3InpaintPipeline', 16, kw=dict(image=image(8), mask_image=hole(8), strength=.75))
@family('StableDiffusion3ControlNetPipeline')
def sd3_control(): return sd3('StableDiffusion3ControlNetPipeline', kw=dict(control_image=image(8)))

# PixArt
def pixart(name, sample=8, **parts):
    tfm = model('PixArtTransformer2DModel', num_attention_heads=2, attention_head_dim=6, num_layers=2,
                cross_attention_dim=12, caption_channels=8, sample_size=sample, norm_num_groups=1,
                use_additional_conditions=sample == 128)
    return pipeline(name, 8, text(8, mask='attention_mask') | dict(use_resolution_binning=False, negative_prompt=None),
                    transformer=tfm, scheduler=df.DPMSolverMultistepScheduler(), vae=vae(), **parts)

@family('PixArtAlphaPipeline', after='learned sigma: the second half of the channels is dropped after the formula')
def pixart_alpha(): return pixart('PixArtAlphaPipeline', 128)
@family('PixArtSigmaPipeline', after='learned sigma: the second half of the channels is dropped after the formula')
def pixart_sigma(): return pixart('PixArtSigmaPipeline')

# Sana
def sana(name, scheduler, kw, **config):
    tfm = model('SanaTransformer2DModel', in_channels=4, out_channels=4, num_attention_heads=2, attention_head_dim=4,
                num_layers=2, caption_channels=8, num_cross_attention_heads=2, cross_attention_head_dim=4,
                cross_attention_dim=8, sample_size=4, **config)
    blocks = ('ResBlock',)*4
    dc = model('AutoencoderDC', latent_channels=4, attention_head_dim=2, encoder_block_types=blocks,
               decoder_block_types=blocks, encoder_block_out_channels=(4, )*4, decoder_block_out_channels=(4, )*4,
               encoder_layers_per_block=(1, )*4, decoder_layers_per_block=(1, )*4, encoder_qkv_multiscales=((), )*4,
               decoder_qkv_multiscales=((), )*4)
    return pipeline(name, 32,
                    text(8, mask='attention_mask') | kw | dict(use_resolution_binning=False), transformer=tfm,
                    scheduler=scheduler, vae=dc)

@family('SanaPipeline', after='where the network has twice the channels (learned sigma), the second half is dropped '
                              'after the formula')
def sana_text(): return sana('SanaPipeline', flow_dpm(), dict(negative_prompt=None))

@family('SanaSprintPipeline', 'none')
def sana_sprint():
    pipe, kw = sana('SanaSprintPipeline', df.SCMScheduler(), dict(intermediate_timesteps=None), guidance_embeds=True)
    return pipe, {k: v for k, v in kw.items() if not k.startswith('negative')}

# HunyuanDiT
def hunyuan(name, kw={}, **parts):
    dims = dict(num_attention_heads=2, attention_head_dim=8, in_channels=4, patch_size=2, sample_size=4, hidden_size=16,
                cross_attention_dim=8, cross_attention_dim_t5=8, pooled_projection_dim=8, text_len=5, text_len_t5=7)
    if 'ControlNet' in name:
        parts['controlnet'] = model('HunyuanDiT2DControlNetModel', transformer_num_layers=4, **dims)
    kw = text(8, mask='attention_mask') | text(8, 7, mask='attention_mask',
                                               end='_2') | dict(use_resolution_binning=False) | kw
    return pipeline(name, 32, kw, transformer=model('HunyuanDiT2DModel', num_layers=4, **dims),
                    scheduler=df.DDPMScheduler(), vae=still(vae(blocks=4)), requires_safety_checker=False, **parts)

@family('HunyuanDiTPipeline', after='learned sigma is dropped before the formula; `guidance_rescale` acts after it')
def hunyuan_text(): return hunyuan('HunyuanDiTPipeline')
@family('HunyuanDiTControlNetPipeline', after='learned sigma is dropped before the formula; `guidance_rescale` acts '
                                              'after it')
def hunyuan_control(): return hunyuan('HunyuanDiTControlNetPipeline', dict(control_image=image(32)))

@family('AuraFlowPipeline')
def aura():
    tfm = model('AuraFlowTransformer2DModel', sample_size=4, num_mmdit_layers=1, num_single_dit_layers=1,
                attention_head_dim=4, num_attention_heads=2, joint_attention_dim=8, caption_projection_dim=8,
                pos_embed_max_size=16)
    return pipeline('AuraFlowPipeline', 8, text(8, mask='attention_mask'), transformer=tfm, scheduler=euler(),
                    vae=vae())

# Lumina
@family('LuminaPipeline', 't first',
        after='learned sigma is dropped before the formula; the formula is for the first 3 channels, the others keep '
              't; then the sign is changed')
def lumina():
    tfm = model('LuminaNextDiT2DModel', sample_size=4, hidden_size=16, num_layers=2, num_attention_heads=2,
                num_kv_heads=2, multiple_of=8, cross_attention_dim=8)
    return pipeline('LuminaPipeline', 32, text(8, mask='attention_mask'), transformer=tfm, scheduler=euler(),
                    vae=vae(blocks=4))

@family('Lumina2Pipeline', 'two calls t first', after='`cfg_normalization` gives each row of the last dimension the '
                                                      'norm that it has in t; '
        'the sign is changed; no second call after `cfg_trunc_ratio`')
def lumina2():
    tfm = model('Lumina2Transformer2DModel', sample_size=4, in_channels=4, hidden_size=24, num_layers=1,
                num_refiner_layers=1, num_attention_heads=2, num_kv_heads=1, multiple_of=8, axes_dim_rope=(4, 4, 4),
                axes_lens=(32, 8, 8), cap_feat_dim=8)
    return pipeline('Lumina2Pipeline', 32, text(8, mask='attention_mask'), transformer=tfm, scheduler=euler(),
                    vae=vae(blocks=4, shift_factor=.1))

# CogView
@family('CogView3PlusPipeline')
def cogview3():
    tfm = model('CogView3PlusTransformer2DModel', in_channels=4, num_layers=2, attention_head_dim=4,
                num_attention_heads=2, out_channels=4, text_embed_dim=8, time_embed_dim=8, condition_dim=2,
                pos_embed_max_size=8, sample_size=4)
    return pipeline('CogView3PlusPipeline', 8, text(8), transformer=tfm, vae=vae(),
                    scheduler=df.CogVideoXDDIMScheduler(beta_start=.00085, beta_end=.012, beta_schedule='scaled_linear',
                                                       prediction_type='v_prediction', rescale_betas_zero_snr=True))

@family('CogView4Pipeline', 'two calls t first')
def cogview4():
    tfm = model('CogView4Transformer2DModel', in_channels=4, out_channels=4, num_layers=2, attention_head_dim=4,
                num_attention_heads=2, text_embed_dim=8, time_embed_dim=8, condition_dim=2, pos_embed_max_size=8,
                sample_size=4, rope_axes_dim=(8, 8))
    return pipeline('CogView4Pipeline', 16, text(8), transformer=tfm, vae=vae(blocks=3),
                    scheduler=euler(use_dynamic_shifting=True, base_shift=.25, max_shift=.75))

# Flux
def flux(name, kw={}, true=False, **parts):
    tfm = model('FluxTransformer2DModel', in_channels=16, **DIT, pooled_projection_dim=6, guidance_embeds=True,
                axes_dims_rope=(2, 2, 4))
    kw = {k: v for k, v in text(8, pooled=6).items() if true or not k.startswith('negative')} | kw
    return pipeline(name, 8, kw, transformer=tfm, vae=vae(shift_factor=.1),
                    scheduler=euler(shift=3., use_dynamic_shifting=True), **parts)

@family('FluxPipeline', 'none')
def flux_text(): return flux('FluxPipeline')
@family('FluxPipeline+true_cfg', 'two calls t first', scale='true_cfg_scale')
def flux_true(): return flux('FluxPipeline', true=True)
@family('FluxImg2ImgPipeline+true_cfg', 'two calls t first', scale='true_cfg_scale')
def flux_img2img(): return flux('FluxImg2ImgPipeline', dict(image=image(8), strength=.75), true=True)
@family('FluxInpaintPipeline+true_cfg', 'two calls t first', scale='true_cfg_scale')
def flux_inpaint():
    return flux('FluxInpaintPipeline', dict(image=image(8), mask_image=hole(8), strength=.75), true=True)

@family('FluxKontextPipeline+true_cfg', 'two calls t first', scale='true_cfg_scale',
        after='the tokens of the edited image are cut off before the formula')
def flux_kontext(): return flux('FluxKontextPipeline', dict(image=image(8), max_area=64, _auto_resize=False), true=True)

# Qwen-Image
def qwen(name, kw={}, net=None, **parts):
    dims = dict(in_channels=16, out_channels=4, num_layers=2, attention_head_dim=8, num_attention_heads=2,
                joint_attention_dim=8, axes_dims_rope=(2, 2, 4))
    if 'ControlNet' in str(name): parts['controlnet'] = model('QwenImageControlNetModel', **dims | dict(num_layers=1))
    net = net or model('QwenImageTransformer2DModel', **dims)
    vae = model('AutoencoderKLQwenImage', base_dim=4, z_dim=4, dim_mult=[1, 1], num_res_blocks=1,
                temperal_downsample=[False], latents_mean=[0.]*4, latents_std=[1.]*4)
    return pipeline(name, 8,
                    text(8, mask='embeds_mask') | kw, transformer=net, vae=vae,
                    scheduler=euler(shift=3., use_dynamic_shifting=True), **parts)

@family('QwenImagePipeline', 'two calls t first', after='each token gets the norm that it has in t',
        scale='true_cfg_scale')
def qwen_text(): return qwen('QwenImagePipeline')

@family('QwenImageImg2ImgPipeline', 'two calls t first', after='each token gets the norm that it has in t',
        scale='true_cfg_scale')
def qwen_img2img(): return qwen('QwenImageImg2ImgPipeline', dict(image=image(8), strength=.75))

@family('QwenImageControlNetPipeline', 'two calls t first', after='each token gets the norm that it has in t',
        scale='true_cfg_scale')
def qwen_control(): return qwen('QwenImageControlNetPipeline', dict(control_image=image(8)))

@family('QwenImageEditPipeline', 'two calls t first', scale='true_cfg_scale',
        after='the tokens of the edited image are cut off before the formula; each token gets the norm that it has in '
              't')
def qwen_edit():
    from unittest.mock import patch
    from diffusers.pipelines.qwenimage import pipeline_qwenimage_edit as host
    class QwenImageEditPipeline(host.QwenImageEditPipeline):
        "The same, but it edits the image at 8 by 8 pixels, not at 1024 by 1024"
        def __call__(self, *args, **kwargs):
            with patch.object(host, 'calculate_dimensions', lambda area, ratio: (8, 8, None)):
                return super().__call__(*args, **kwargs)
    return qwen(QwenImageEditPipeline, dict(image=Image.new('RGB', (8, 8), 'teal')))

# Z-Image and Chroma
Z_AFTER = ('the formula is t + s (t - u); `cfg_normalization` limits the norm of the image; the sign is changed; '
           'no halves after `cfg_truncation`; there are halves for every scale above 0')

def z(name, **kw):
    tfm = model('ZImageTransformer2DModel', in_channels=4, dim=16, n_layers=1, n_refiner_layers=1, n_heads=2,
                n_kv_heads=2, cap_feat_dim=8, axes_dims=[2, 2, 4], axes_lens=[64, 8, 8])
    kw |= {k: list(v) for k, v in text(8).items()}
    return pipeline(name, 8, kw, transformer=tfm, vae=vae(shift_factor=.1),
                    scheduler=euler(shift=3., use_dynamic_shifting=True))

@family('ZImagePipeline', 't first', after=Z_AFTER)
def z_image(): return z('ZImagePipeline')
@family('ZImageImg2ImgPipeline', 't first', after=Z_AFTER)
def z_img2img(): return z('ZImageImg2ImgPipeline', image=image(8), strength=.75)

def chroma(name, **kw):
    tfm = model('ChromaTransformer2DModel', in_channels=16, **DIT, axes_dims_rope=(2, 2, 4),
                approximator_num_channels=8, approximator_hidden_dim=8, approximator_layers=1)
    kw |= {k: v.bool() if 'mask' in k else v for k, v in text(8, mask='attention_mask').items()}
    return pipeline(name, 8, kw, transformer=tfm, vae=vae(shift_factor=.1), scheduler=euler())

@family('ChromaPipeline', 'two calls t first')
def chroma_text(): return chroma('ChromaPipeline')
@family('ChromaImg2ImgPipeline', 'two calls t first')
def chroma_img2img(): return chroma('ChromaImg2ImgPipeline', image=image(8), strength=.75)

@family('HiDreamImagePipeline', after='the sign is changed before the formula')
def hidream():
    tfm = model('HiDreamImageTransformer2DModel', patch_size=2, in_channels=4, num_layers=1, num_single_layers=1,
                attention_head_dim=8, num_attention_heads=2, caption_channels=[8, 8], text_emb_dim=6,
                axes_dims_rope=(4, 2, 2), max_resolution=(4, 4), llama_layers=[0, 1], num_routed_experts=2,
                num_activated_experts=1)
    emb = text(8, pooled=6)
    for k in [k for k in emb if k.endswith('prompt_embeds') and 'pooled' not in k]:
        emb[f'{k}_t5'] = emb.pop(k)
        emb[f'{k}_llama3'] = noise(2, 2, 5, 8, seed=5 + k.startswith('negative'))
    pipe, kw = pipeline('HiDreamImagePipeline', 8, emb, transformer=tfm, vae=vae(shift_factor=.1),
                        scheduler=euler(shift=3.))
    pipe.default_sample_size = 4
    return pipe, kw

class Words:
    "A tokenizer with one number for each word"
    model_max_length = 64
    def __call__(self, text): return SimpleNamespace(input_ids=[sum(map(ord, w))%32 for w in text.split()])

def omnigen(prompt, **kw):
    from unittest.mock import MagicMock, patch
    from diffusers.pipelines.omnigen import pipeline_omnigen, processor_omnigen
    tfm = model('OmniGenTransformer2DModel', in_channels=4, hidden_size=16, num_attention_heads=2,
                num_key_value_heads=2, intermediate_size=16, num_layers=1, pad_token_id=0, vocab_size=32,
                max_position_embeddings=256, original_max_position_embeddings=256, time_step_dim=8,
                pos_embed_max_size=8, rope_scaling=dict(long_factor=[1., 1., 1., 1.], short_factor=[1., 1., 1., 1.]))
    with patch.object(processor_omnigen, 'transforms', MagicMock(), create=True), \
         patch.object(pipeline_omnigen, 'OmniGenMultiModalProcessor',
                      processor_omnigen.OmniGenMultiModalProcessor, create=True):
        pipe, kw = pipeline('OmniGenPipeline', 32,
                            dict(prompt=prompt) | kw, transformer=tfm, vae=still(vae(blocks=4)),
                            scheduler=euler(invert_sigmas=True), tokenizer=Words())
    pipe.multimodal_processor.process_image = lambda x: x
    return pipe, kw

@family('OmniGenPipeline', 't first', after='there are halves for every scale, also 1 and below')
def omnigen_text(): return omnigen(['a red cat', 'a blue dog'])
@family('OmniGenPipeline+images', 'three', after='u + s_i (i - u) + s (t - i) of three parts t, u, i; '
                                                 '`img_guidance_scale` is s_i')
def omnigen_images():
    return omnigen([f'{w} <img><|image_1|></img>' for w in ('a red cat', 'a blue dog')],
                   input_images=[[o] for o in image(32)])

@family('Kandinsky5T2IPipeline', 'two calls t first')
def kandinsky5():
    tfm = model('Kandinsky5Transformer3DModel', in_visual_dim=4, in_text_dim=8, in_text_dim2=6, time_dim=8,
                out_visual_dim=4, model_dim=16, ff_dim=16, num_text_blocks=1, num_visual_blocks=1, axes_dims=(2, 2, 4))
    kw = {}
    for k, sign in enumerate(('', 'negative_')):
        kw |= {
            f'{sign}prompt_embeds_qwen': noise(2, 5, 8, seed=k), f'{sign}prompt_embeds_clip': noise(2, 6, seed=2 + k),
            f'{sign}prompt_cu_seqlens': torch.tensor([0, 5, 10], dtype=torch.int32)
        }
    pipe, kw = pipeline('Kandinsky5T2IPipeline', 32, kw, transformer=tfm, vae=vae(blocks=4), scheduler=euler(shift=3.))
    pipe.resolutions = [(32, 32)]
    return pipe, kw

@family('HunyuanImagePipeline', 'guider', scale='guider.guidance_scale', after='two calls t first, each prepared by '
                                                                               'the part `guider`')
def hunyuan_image():
    tfm = model('HunyuanImageTransformer2DModel', in_channels=4, out_channels=4, num_attention_heads=2,
                attention_head_dim=8, num_layers=1, num_single_layers=1, num_refiner_layers=1, text_embed_dim=8,
                text_embed_2_dim=8, rope_axes_dim=(4, 4))
    v = model('AutoencoderKLHunyuanImage', in_channels=3, out_channels=3, latent_channels=4,
              block_out_channels=(32, 32), layers_per_block=1, spatial_compression_ratio=2, sample_size=16,
              scaling_factor=.75)
    kw = text(8, mask='embeds_mask') | text(8, 4, mask='embeds_mask', end='_2')
    return pipeline('HunyuanImagePipeline', 8, kw, transformer=tfm, vae=v, scheduler=euler(shift=3.),
                    guider=df.guiders.ClassifierFreeGuidance(guidance_scale=3.5))

@family('PRXPipeline', after='one prompt only: its timestep has 2 entries whatever the batch, so a batch of 2 with '
                             'guidance fails in diffusers itself')
def prx():
    tfm = model('PRXTransformer2DModel', in_channels=4, context_in_dim=8, hidden_size=16, num_heads=2, depth=1,
                axes_dim=[4, 4])
    return pipeline('PRXPipeline', 8,
                    text(8, mask='attention_mask', n=1) | dict(use_resolution_binning=False), transformer=tfm,
                    vae=vae(shift_factor=.1), scheduler=euler(shift=3.))

@family('BriaPipeline', after='`normalize` and `clip_value` act after the formula when they are given')
def bria():
    tfm = model('BriaTransformer2DModel', in_channels=16, **DIT, axes_dims_rope=[0, 4, 4])
    return pipeline('BriaPipeline', 8, text(8), transformer=tfm, vae=vae(shift_factor=.1), scheduler=euler())

@family('OvisImagePipeline', 'two calls t first')
def ovis():
    tfm = model('OvisImageTransformer2DModel', in_channels=16, out_channels=16, **DIT, axes_dims_rope=(2, 2, 4))
    return pipeline('OvisImagePipeline', 8,
                    text(8) | dict(negative_prompt=None), transformer=tfm, vae=vae(shift_factor=.1),
                    scheduler=euler(use_dynamic_shifting=True))

# Flux 2
def flux2(name, kw, embeds, **parts):
    tfm = model('Flux2Transformer2DModel', in_channels=16, **DIT, timestep_guidance_channels=8,
                axes_dims_rope=(2, 2, 2, 2), guidance_embeds=embeds)
    return pipeline(name, 8, kw, transformer=tfm, vae=vae2(), scheduler=euler(use_dynamic_shifting=True), **parts)

def vae2(blocks=2):
    return model('AutoencoderKLFlux2', block_out_channels=(4, )*blocks,
                 down_block_types=('DownEncoderBlock2D', )*blocks, up_block_types=('UpDecoderBlock2D', )*blocks,
                 layers_per_block=1, latent_channels=4, norm_num_groups=2, sample_size=16)

@family('Flux2Pipeline', 'none')
def flux2_text(): return flux2('Flux2Pipeline', dict(prompt_embeds=noise(2, 5, 8)), True)
@family('Flux2KleinPipeline', 'two calls t first')
def flux2_klein(): return flux2('Flux2KleinPipeline', text(8), False)

@family('AmusedPipeline', after='the prediction is logits of tokens, from which the scheduler samples; the latents are '
                                'whole numbers')
def amused():
    net = model('UVit2DModel', hidden_size=8, cond_embed_dim=6, micro_cond_encode_dim=4, micro_cond_embed_dim=20,
                encoder_hidden_size=8, vocab_size=18, codebook_size=16, in_channels=8, block_out_channels=8,
                num_res_blocks=1, block_num_heads=2, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8,
                sample_size=4)
    vq = model('VQModel', block_out_channels=(4, 4), down_block_types=('DownEncoderBlock2D', )*2,
               up_block_types=('UpDecoderBlock2D', )*2, latent_channels=4, num_vq_embeddings=16, norm_num_groups=2,
               lookup_from_codebook=True)
    emb = text(8, pooled=6)
    kw = {}
    for sign in ('', 'negative_'):
        kw |= {
            f'{sign}prompt_embeds': emb[f'{sign}pooled_prompt_embeds'],
            f'{sign}encoder_hidden_states': emb[f'{sign}prompt_embeds']
        }
    return pipeline('AmusedPipeline', 8, kw, transformer=net, vqvae=vq, scheduler=df.AmusedScheduler(mask_token_id=17))

@family('LongCatImagePipeline', 'two calls t first', after='`enable_cfg_renorm` limits the norm of each token to that '
                                                           'of t')
def longcat():
    tfm = model('LongCatImageTransformer2DModel', in_channels=64, **DIT, pooled_projection_dim=8,
                axes_dims_rope=[2, 2, 4])
    pipe, kw = pipeline('LongCatImagePipeline', 8,
                        dict(prompt=['cat', 'dog'], negative_prompt=['', ''], enable_prompt_rewrite=False),
                        transformer=tfm, vae=vae(16, shift_factor=.1), scheduler=euler(use_dynamic_shifting=True))
    pipe._encode_prompt = lambda prompt: noise(2, 5, 8, seed=int(not prompt[0]))[:len(prompt)]
    return pipe, kw

@family('ErnieImagePipeline')
def ernie():
    tfm = model('ErnieImageTransformer2DModel', hidden_size=16, num_attention_heads=2, num_layers=1, ffn_hidden_size=16,
                in_channels=16, out_channels=16, text_in_dim=8, rope_axes_dim=(2, 2, 4))
    return pipeline('ErnieImagePipeline', 8, {k: list(v)
                                              for k, v in text(8).items()}, transformer=tfm, vae=vae2(),
                    scheduler=euler(shift=3.))

class Unwatched:
    "A safety checker that is never asked"
    def to(self, device): pass

@family('Cosmos2TextToImagePipeline', 'two calls t first',
        after='the formula is t + s (t - u) of denoised images c_skip x + c_out p, made from the network\'s p; then '
              'they become a velocity')
def cosmos2():
    tfm = model('CosmosTransformer3DModel', in_channels=4, out_channels=4, num_attention_heads=2, attention_head_dim=16,
                num_layers=1, mlp_ratio=2., text_embed_dim=8, adaln_lora_dim=4, max_size=(4, 8, 8),
                concat_padding_mask=False, extra_pos_embed_type=None)
    v = model('AutoencoderKLWan', base_dim=4, z_dim=4, dim_mult=[1, 1], num_res_blocks=1, temperal_downsample=[False],
              latents_mean=[0.]*4, latents_std=[1.]*4)
    return pipeline('Cosmos2TextToImagePipeline', 16, text(8), transformer=tfm, vae=v,
                    scheduler=euler(use_karras_sigmas=True), safety_checker=Unwatched())

@family('Krea2Pipeline', 'two calls t first', after='the formula is t + s (t - u); there are two calls for every scale '
                                                    'above 0')
def krea2():
    net = model('Krea2Transformer2DModel', in_channels=16, num_layers=1, attention_head_dim=8, num_attention_heads=2,
                num_key_value_heads=1, intermediate_size=16, timestep_embed_dim=8, text_hidden_dim=8, num_text_layers=2,
                text_num_attention_heads=2, text_num_key_value_heads=2, text_intermediate_size=8,
                num_layerwise_text_blocks=1, num_refiner_text_blocks=1, axes_dims_rope=(4, 2, 2))
    kw = {
        k: v.bool() if 'mask' in k else noise(2, 5, 2, 8, seed=i)
        for i, (k, v) in enumerate(text(8, mask='embeds_mask').items())
    }
    return qwen('Krea2Pipeline', kw, net)

@family('NucleusMoEImagePipeline', 'two calls t first', after='each token gets the norm that it has in t; the sign is '
                                                              'changed')
def nucleus():
    net = model('NucleusMoEImageTransformer2DModel', in_channels=16, out_channels=4, num_layers=1, attention_head_dim=8,
                num_attention_heads=2, joint_attention_dim=8, axes_dims_rope=(2, 2, 4), mlp_ratio=12.,
                moe_enabled=False)
    return qwen('NucleusMoEImagePipeline', net=net)

# Perturbed-attention guidance
@family('StableDiffusion3PAGPipeline', 'three', after='u + s (t - u) + s_p (t - p) of three parts u, t, p; without PAG '
                                                      'two halves')
def sd3_pag(): return sd3('StableDiffusion3PAGPipeline', pag_applied_layers='blocks.1')
@family('PixArtSigmaPAGPipeline', 'three', after='u + s (t - u) + s_p (t - p) of three parts u, t, p; then the learned '
                                                 'sigma is dropped')
def pixart_pag(): return pixart('PixArtSigmaPAGPipeline', pag_applied_layers='blocks.1')
@family('SanaPAGPipeline', 'three', after='u + s (t - u) + s_p (t - p) of three parts u, t, p; then the learned sigma, '
                                          'if any, is dropped')
def sana_pag(): return sana('SanaPAGPipeline', flow_dpm(), dict(negative_prompt=None))
@family('HunyuanDiTPAGPipeline', 'three',
        after='u + s (t - u) + s_p (t - p) of three parts u, t, p; learned sigma is dropped before it; '
              '`guidance_rescale` acts after it')
def hunyuan_pag(): return hunyuan('HunyuanDiTPAGPipeline')

LEFT |= {
    'Ideogram4Pipeline': 'not tried: two networks, one of them without text, and no embeddings as input',
    'BriaFiboPipeline': 'not tried: no embeddings as input, so it needs its text encoder',
    'GlmImagePipeline': 'not tried: it needs a vision-language model that writes prior tokens',
    'DreamLitePipeline': 'not tried: a U-Net and a vision-language text encoder',
    'QwenImage21Pipeline': 'not tried: key-value caches between the steps',
}
