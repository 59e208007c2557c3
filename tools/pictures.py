"Pictures of the site for its dark theme: white paper and black ink change places, photographs stay as they are"
import base64, io, re
import numpy as np
from PIL import Image
from scipy.ndimage import find_objects, label

PAPER = .133                             # the ground of the dark theme
IMG = re.compile(r'<img (?:[^>]*? )?src="([^"]+\.png|data:image/png;base64,[^"]+)"[^>]*>')

def photographs(rgb, side=20, full=.7):
    "Where a picture, (h, w, 3) in 0 to 255, is no drawing: its parts on white paper that fill their own rectangle"
    found, inked = np.zeros(rgb.shape[:2], bool), rgb.min(-1) < 225
    parts, n = label(inked, np.ones((3, 3)))
    for i, where in enumerate(find_objects(parts, n), 1):
        part = parts[where] == i
        # the frame of a plot has white paper within, and a photograph at most a bright spot
        if min(part.shape) >= side and part.mean() >= full: found[where] = True
    return found

def darkened(rgb):
    "A picture, (h, w, 3) in 0 to 255, with light paper made dark and each colour of the ink kept"
    x = rgb/255
    most, least = x.max(-1, keepdims=True), x.min(-1, keepdims=True)
    light = 1 - (most + least)/2
    # a colour as light as a line's is not much darker than its ground now
    light = light + np.clip(3*(most - least), 0, 1)**2*np.maximum(.6 - light, 0)
    turned = np.clip(x + light - (most + least)/2, 0, 1)
    turned = 255*(PAPER + (1 - PAPER)*turned)
    return np.where(photographs(rgb)[..., None], rgb, turned).round().astype(np.uint8)

def dark_png(png):
    "The bytes of a PNG for the dark theme, in 256 colours"
    rgb, out = np.asarray(Image.open(io.BytesIO(png)).convert('RGB')), io.BytesIO()
    Image.fromarray(darkened(rgb)).quantize(256, kmeans=2, dither=Image.Dither.NONE).save(out, 'png', optimize=True)
    return out.getvalue()

def dark_source(src, page):
    "The `src` of a picture on a `page` for the dark theme, and the file where it is one; `None` where there is none"
    if src.startswith('data:'):
        return 'data:image/png;base64,' + base64.b64encode(dark_png(base64.b64decode(src.partition(',')[2]))).decode()
    file, dark = page.parent/src, src[:-4] + '.dark.png'
    if not file.is_file(): return
    (page.parent/dark).write_bytes(dark_png(file.read_bytes()))
    return dark

def of_theme(tag, theme):
    "The `tag` of a picture that one theme shows"
    if ' class="' in tag: return tag.replace(' class="', f' class="{theme}-content ', 1)
    return tag.replace('<img ', f'<img class="{theme}-content" ', 1)

def for_both_themes(html, page):
    "The `html` of a `page` with two pictures in place of each PNG, of which the theme shows one"
    def _both(m):
        dark = dark_source(m[1], page)
        return of_theme(m[0], 'light') + of_theme(m[0].replace(m[1], dark), 'dark') if dark else m[0]
    return IMG.sub(_both, html)
