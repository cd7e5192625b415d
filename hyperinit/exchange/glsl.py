"""Linear layers with sines between them -> a fragment shader, alone or in a page.

Four units are one vec4. A layer is stored as blocks of four outputs: for each block its biases,
then one vec4 per input. So a shader reads the weights in the order in which they are stored.
"""

from __future__ import annotations

import base64

import torch
from torch import Tensor

from hyperinit.base.errors import InputError
from hyperinit.exchange.conventions import Layers, Size

MAX_CONSTANTS = 8192  # constant vec4s that drivers still compile in reasonable time
TEXTURE_SIDE = 1024  # texels per row of the texture that holds a page's weights
MAX_PAGE_SIDE = 4096  # pixels

_HEAD = """#version 300 es
// A SIREN as written by hyperinit: {depth} sine layers of {width} units.
// `size` is the picture's size in pixels; siren(p) takes x and y from -1 to 1, y downwards, and
// returns a colour from 0 to 1.
precision highp float;
precision highp int;
uniform vec2 size;
out vec4 colour;
"""
_CONSTANTS = """const vec4 WEIGHTS[{count}] = vec4[{count}](
{values}
);
vec4 w(int i) {{ return WEIGHTS[i]; }}
"""
_TEXTURE = """uniform highp sampler2D weights;
vec4 w(int i) {{ return texelFetch(weights, ivec2(i % {side}, i / {side}), 0); }}
"""
_BODY = """
const int BLOCKS = {blocks};
vec4 wave(vec4 x) {{ return sin(x - 6.283185307 * round(x / 6.283185307)); }}

vec3 siren(vec2 p) {{
  vec4 a[BLOCKS], b[BLOCKS];
  int i = 0;
  for (int j = 0; j < BLOCKS; j++, i += 3) a[j] = wave(w(i) + w(i + 1) * p.x + w(i + 2) * p.y);
  for (int layer = 1; layer < {depth}; layer++) {{
    for (int j = 0; j < BLOCKS; j++) {{
      vec4 sum = w(i++);
      for (int k = 0; k < BLOCKS; k++, i += 4)
        sum += mat4(w(i), w(i + 1), w(i + 2), w(i + 3)) * a[k];
      b[j] = wave(sum);
    }}
    a = b;
  }}
  vec4 sum = w(i++);
  for (int k = 0; k < BLOCKS; k++, i += 4)
    sum += mat4(w(i), w(i + 1), w(i + 2), w(i + 3)) * a[k];
  return sum.rgb;
}}

void main() {{
  vec2 p = vec2(gl_FragCoord.x, size.y - gl_FragCoord.y) / size * 2.0 - 1.0;
  colour = vec4(clamp(siren(p), 0.0, 1.0), 1.0);
}}
"""

_PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>A SIREN</title>
<style>body {{ margin: 0; display: grid; place-items: center; min-height: 100vh }}</style>
<canvas></canvas><p id="problem"></p>
<script id="shader" type="x-shader/x-fragment">{shader}</script>
<script>
const canvas = document.querySelector("canvas");
const gl = canvas.getContext("webgl2", {{ antialias: false, preserveDrawingBuffer: true }});
const say = text => {{ document.getElementById("problem").textContent = text; }};
function compiled(kind, text) {{
  const shader = gl.createShader(kind);
  gl.shaderSource(shader, text);
  gl.compileShader(shader);
  if (!gl.getShaderParameter(shader, gl.COMPILE_STATUS)) say(gl.getShaderInfoLog(shader));
  return shader;
}}
// Draws the SIREN at any size and returns its pixels: R, G, B, A from 0 to 255, the top row first.
function draw(width, height) {{
  canvas.width = width;
  canvas.height = height;
  gl.viewport(0, 0, width, height);
  gl.uniform2f(gl.getUniformLocation(program, "size"), width, height);
  gl.drawArrays(gl.TRIANGLES, 0, 3);
  const rows = new Uint8Array(4 * width * height), pixels = new Uint8Array(rows.length);
  gl.readPixels(0, 0, width, height, gl.RGBA, gl.UNSIGNED_BYTE, rows);
  for (let y = 0, row = 4 * width; y < height; y++)
    pixels.set(rows.subarray(row * (height - 1 - y), row * (height - y)), row * y);
  return pixels;
}}
let program;
if (!gl) say("This browser has no WebGL 2.");
else {{
  const bytes = Uint8Array.from(atob("{weights}"), c => c.charCodeAt(0));
  program = gl.createProgram();
  // One triangle that covers the canvas.
  gl.attachShader(program, compiled(gl.VERTEX_SHADER, `#version 300 es
    void main() {{
      gl_Position = vec4(gl_VertexID == 1 ? 3 : -1, gl_VertexID == 2 ? 3 : -1, 0, 1);
    }}`));
  const text = document.getElementById("shader").textContent;
  gl.attachShader(program, compiled(gl.FRAGMENT_SHADER, text));
  gl.linkProgram(program);
  gl.useProgram(program);
  gl.bindTexture(gl.TEXTURE_2D, gl.createTexture());
  gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_MIN_FILTER, gl.NEAREST);
  gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_MAG_FILTER, gl.NEAREST);
  gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGBA32F, {side}, {rows}, 0, gl.RGBA, gl.FLOAT,
    new Float32Array(bytes.buffer));
  draw({width}, {height});
}}
</script>
</html>
"""


def packed(layers: Layers) -> Tensor:
    """All weights as vec4s (N, 4), in the order in which the shader reads them."""
    blocks = -(-len(layers[0][0]) // 4)
    parts = []
    for i, (weight, bias) in enumerate(layers):
        out, into = weight.shape
        rows = 1 if i == len(layers) - 1 else blocks
        whole = torch.zeros(4 * rows, 1 + (into if i == 0 else 4 * blocks))
        whole[:out, 1 : 1 + into] = weight
        if bias is not None:
            whole[:out, 0] = bias
        parts.append(whole.reshape(rows, 4, -1).transpose(1, 2).reshape(-1, 4))
    return torch.cat(parts)


def _source(layers: Layers, weights: str) -> str:
    width, depth = len(layers[0][0]), len(layers) - 1
    sizes = {"width": width, "depth": depth, "blocks": -(-width // 4)}
    return _HEAD.format(**sizes) + weights + _BODY.format(**sizes)


def shader(layers: Layers) -> str:
    """A GLSL ES 3.00 fragment shader with the weights as constants.

    Args:
        layers: sin(W x + b) in every sine layer; colours in [0, 1].

    Raises:
        InputError: there are more weights than drivers compile.
    """
    vectors = packed(layers)
    count = len(vectors)
    if count > MAX_CONSTANTS:
        raise InputError(
            f"this SIREN has {4 * count} numbers, but a shader can have at most"
            f" {4 * MAX_CONSTANTS} as constants; write a page, OUT.html, which uses a texture"
        )
    rows = (", ".join(f"{value:.9g}" for value in row) for row in vectors.tolist())
    values = ",\n".join(f"vec4({row})" for row in rows)
    return _source(layers, _CONSTANTS.format(count=count, values=values))


def page(layers: Layers, size: Size | None = None) -> str:
    """A self-contained page that draws the SIREN with WebGL 2, its weights in a texture.

    Args:
        layers: sin(W x + b) in every sine layer; colours in [0, 1].
        size: Height and width of the canvas in pixels; 256 x 256 by default.

    Raises:
        InputError: a side is too large for a canvas.
    """
    height, width = size or (256, 256)
    if max(height, width) > MAX_PAGE_SIDE:
        raise InputError(f"a page shows at most {MAX_PAGE_SIDE} pixels a side, not {size}")
    vectors = packed(layers)
    rows = -(-len(vectors) // TEXTURE_SIDE)
    texture = torch.zeros(rows * TEXTURE_SIDE, 4)
    texture[: len(vectors)] = vectors
    return _PAGE.format(
        shader=_source(layers, _TEXTURE.format(side=TEXTURE_SIDE)),
        weights=base64.b64encode(texture.numpy().astype("<f4").tobytes()).decode(),
        side=TEXTURE_SIDE,
        rows=rows,
        height=height,
        width=width,
    )
