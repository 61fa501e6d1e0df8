// Draws 3D Gaussians (Kerbl et al. 2023) in a canvas with WebGL 2: projected as dreamfusion/ops/splat/projection.py does,
// sorted by depth on the CPU, blended from back to front. Written for this project; needs no library.

const SPLAT_BYTES = 32; // a .splat record: place and scales as float32, colour, opacity and rotation as bytes
const NEAR = 0.2, BLUR = 0.3, THINNEST = 1e-4, BEYOND = 1.3; // as in projection.py

const VERTEX = `#version 300 es
precision highp float;
uniform highp sampler2D data; // three texels a Gaussian: place; covariance xx xy xz yy; covariance yz zz, colour, opacity
uniform mat4 view; // world to camera, which looks along -z
uniform vec2 size, focal; // pixels
in vec2 corner; // of a square of two standard deviations and more
in uint index;
out vec2 at;
out vec4 tint;
vec4 texel(uint place) {
  uint width = uint(textureSize(data, 0).x);
  return texelFetch(data, ivec2(place % width, place / width), 0);
}
void main() {
  vec4 place = texel(3u * index), one = texel(3u * index + 1u), two = texel(3u * index + 2u);
  vec3 seen = (view * vec4(place.xyz, 1.0)).xyz;
  gl_Position = vec4(2.0, 2.0, 2.0, 1.0);
  if (seen.z > -${NEAR.toFixed(4)}) return;
  mat3 covariance = mat3(one.x, one.y, one.z, one.y, one.w, two.x, one.z, two.x, two.y);
  float ahead = -seen.z;
  vec2 wide = ${BEYOND.toFixed(4)} * size / (2.0 * focal);
  vec2 slope = clamp(seen.xy / ahead, -wide, wide);
  mat3 turn = mat3(view);
  mat3 jacobian = mat3(focal.x / ahead, 0.0, 0.0, 0.0, focal.y / ahead, 0.0,
                       focal.x * slope.x / ahead, focal.y * slope.y / ahead, 0.0);
  mat3 both = jacobian * turn;
  mat3 flat2 = both * covariance * transpose(both);
  float xx = flat2[0][0], xy = flat2[0][1], yy = flat2[1][1];
  float own = max(xx * yy - xy * xy, 0.0);
  xx += ${BLUR.toFixed(4)}; yy += ${BLUR.toFixed(4)};
  float share = sqrt(max(own / (xx * yy - xy * xy), ${THINNEST.toFixed(6)}));
  float middle = 0.5 * (xx + yy), apart = length(vec2(0.5 * (xx - yy), xy));
  float most = middle + apart, least = max(middle - apart, 1e-6);
  vec2 axis = apart < 1e-6 ? vec2(1.0, 0.0) : abs(xy) < 1e-9 ? (xx >= yy ? vec2(1.0, 0.0) : vec2(0.0, 1.0))
    : normalize(vec2(xy, most - xx));
  uint rgb = uint(two.z);
  tint = vec4(float(rgb & 255u) / 255.0, float((rgb >> 8) & 255u) / 255.0, float(rgb >> 16) / 255.0, two.w * share);
  float reach = sqrt(2.0 * log(max(255.0 * tint.a, 1.0001))); // where the alpha falls to 1 / 255
  at = corner * reach;
  vec2 offset = at.x * sqrt(most) * axis + at.y * sqrt(least) * vec2(-axis.y, axis.x);
  vec2 centre = focal * seen.xy / ahead;
  gl_Position = vec4((centre + offset) / (0.5 * size), 0.0, 1.0);
}`;

const FRAGMENT = `#version 300 es
precision highp float;
in vec2 at;
in vec4 tint;
out vec4 color;
void main() {
  float alpha = min(0.99, tint.a * exp(-0.5 * dot(at, at)));
  if (alpha < 1.0 / 255.0) discard;
  color = vec4(tint.rgb * alpha, alpha);
}`;

/** Shows the bytes of a .splat file in a canvas; drag turns it, the wheel or two fingers zoom. */
class SplatView {
  /** Throws an Error where there is no WebGL 2. */
  constructor(canvas, buffer) {
    this.canvas = canvas;
    const gl = this.gl = canvas.getContext("webgl2", {antialias: false, premultipliedAlpha: true, preserveDrawingBuffer: true});
    if (!gl) throw new Error("no WebGL 2");
    this.azimuth = 20; this.elevation = 12; this.distance = 3; this.fov = 40; this.turning = true;
    this._read(buffer);
    this._prepare();
    this._listen();
    this._order = new Uint32Array(this.count);
    new ResizeObserver(() => this.draw()).observe(canvas);
  }

  /** Places in the axes of the scene (y up, the front towards +z), and covariances. */
  _read(buffer) {
    const n = this.count = Math.floor(buffer.byteLength / SPLAT_BYTES);
    const floats = new Float32Array(buffer, 0, 8 * n), bytes = new Uint8Array(buffer);
    this.places = new Float32Array(3 * n);
    this.width = 3 * Math.ceil(Math.sqrt(n / 3)) || 3;
    this.rows = Math.max(1, Math.ceil(3 * n / this.width));
    const data = new Float32Array(4 * this.width * this.rows);
    for (let i = 0; i < n; i++) {
      const f = 8 * i, b = SPLAT_BYTES * i + 24, d = 12 * i;
      const [x, y, z] = [floats[f], -floats[f + 1], -floats[f + 2]];
      let q = [0, 1, 2, 3].map((k) => (bytes[b + 4 + k] - 128) / 128);
      const length = Math.hypot(...q) || 1;
      q = q.map((part) => part / length);
      const [w, a, v, c] = [q[1], -q[0], q[3], -q[2]]; // turned back by 180 degrees about x, up to the sign
      const turn = [1 - 2 * (v * v + c * c), 2 * (a * v - w * c), 2 * (a * c + w * v),
                    2 * (a * v + w * c), 1 - 2 * (a * a + c * c), 2 * (v * c - w * a),
                    2 * (a * c - w * v), 2 * (v * c + w * a), 1 - 2 * (a * a + v * v)];
      const s = [floats[f + 3] ** 2, floats[f + 4] ** 2, floats[f + 5] ** 2];
      const at = (r, k) => turn[3 * r] * turn[3 * k] * s[0] + turn[3 * r + 1] * turn[3 * k + 1] * s[1]
        + turn[3 * r + 2] * turn[3 * k + 2] * s[2];
      this.places.set([x, y, z], 3 * i);
      data.set([x, y, z, 0, at(0, 0), at(0, 1), at(0, 2), at(1, 1), at(1, 2), at(2, 2)], d);
      data[d + 10] = bytes[b] + 256 * bytes[b + 1] + 65536 * bytes[b + 2]; // exact in a float32
      data[d + 11] = bytes[b + 3] / 255;
    }
    this.data = data;
  }

  _prepare() {
    const gl = this.gl, program = gl.createProgram();
    for (const [kind, source] of [[gl.VERTEX_SHADER, VERTEX], [gl.FRAGMENT_SHADER, FRAGMENT]]) {
      const shader = gl.createShader(kind);
      gl.shaderSource(shader, source);
      gl.compileShader(shader);
      if (!gl.getShaderParameter(shader, gl.COMPILE_STATUS)) throw new Error(gl.getShaderInfoLog(shader));
      gl.attachShader(program, shader);
    }
    gl.linkProgram(program);
    gl.useProgram(program);
    this.uniform = Object.fromEntries(["view", "size", "focal"].map((name) => [name, gl.getUniformLocation(program, name)]));
    gl.bindTexture(gl.TEXTURE_2D, gl.createTexture());
    for (const side of [gl.TEXTURE_MIN_FILTER, gl.TEXTURE_MAG_FILTER]) gl.texParameteri(gl.TEXTURE_2D, side, gl.NEAREST);
    gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGBA32F, this.width, this.rows, 0, gl.RGBA, gl.FLOAT, this.data);
    const corner = gl.getAttribLocation(program, "corner"), index = gl.getAttribLocation(program, "index");
    gl.bindBuffer(gl.ARRAY_BUFFER, gl.createBuffer());
    gl.bufferData(gl.ARRAY_BUFFER, new Float32Array([-1, -1, 1, -1, -1, 1, 1, 1]), gl.STATIC_DRAW);
    gl.enableVertexAttribArray(corner);
    gl.vertexAttribPointer(corner, 2, gl.FLOAT, false, 0, 0);
    gl.bindBuffer(gl.ARRAY_BUFFER, gl.createBuffer()); // stays bound: the order is written anew for each picture
    gl.enableVertexAttribArray(index);
    gl.vertexAttribIPointer(index, 1, gl.UNSIGNED_INT, 0, 0);
    gl.vertexAttribDivisor(index, 1);
    gl.enable(gl.BLEND);
    gl.blendFunc(gl.ONE, gl.ONE_MINUS_SRC_ALPHA);
    gl.clearColor(0, 0, 0, 0);
  }

  _listen() {
    const canvas = this.canvas, fingers = new Map();
    const zoom = (factor) => { this.distance = Math.min(12, Math.max(0.6, this.distance * factor)); this.draw(); };
    const spread = () => { const [a, b] = [...fingers.values()]; return Math.hypot(a[0] - b[0], a[1] - b[1]); };
    canvas.addEventListener("pointerdown", (event) => {
      canvas.setPointerCapture(event.pointerId);
      fingers.set(event.pointerId, [event.clientX, event.clientY]);
      this.turning = false;
      canvas.dispatchEvent(new Event("touched"));
    });
    for (const end of ["pointerup", "pointercancel"]) canvas.addEventListener(end, (event) => fingers.delete(event.pointerId));
    canvas.addEventListener("pointermove", (event) => {
      const last = fingers.get(event.pointerId);
      if (!last) return;
      const before = fingers.size === 2 ? spread() : 0;
      fingers.set(event.pointerId, [event.clientX, event.clientY]);
      if (fingers.size === 2) return zoom(before / Math.max(spread(), 1));
      this.azimuth -= (event.clientX - last[0]) * 0.5;
      this.elevation = Math.min(89, Math.max(-89, this.elevation + (event.clientY - last[1]) * 0.5));
      this.draw();
    });
    canvas.addEventListener("wheel", (event) => { event.preventDefault(); zoom(Math.exp(event.deltaY * 0.001)); }, {passive: false});
  }

  /** Turns slowly until it is touched. */
  turn() {
    let last = performance.now();
    const next = (now) => {
      if (!this.turning) return;
      this.azimuth += (now - last) * 0.024;
      last = now;
      if (this.canvas.offsetParent !== null) this.draw();
      requestAnimationFrame(next);
    };
    requestAnimationFrame(next);
  }

  draw() {
    const gl = this.gl, canvas = this.canvas, ratio = Math.min(devicePixelRatio || 1, 2);
    const width = Math.round(canvas.clientWidth * ratio), height = Math.round(canvas.clientHeight * ratio);
    if (!width || !height || !this.count) return;
    if (canvas.width !== width || canvas.height !== height) { canvas.width = width; canvas.height = height; }
    const [a, e] = [this.azimuth, this.elevation].map((degrees) => degrees * Math.PI / 180);
    const back = [Math.sin(a) * Math.cos(e), Math.sin(e), Math.cos(a) * Math.cos(e)]; // towards the camera
    const right = [Math.cos(a), 0, -Math.sin(a)];
    const up = [-Math.sin(a) * Math.sin(e), Math.cos(e), -Math.cos(a) * Math.sin(e)];
    gl.viewport(0, 0, width, height);
    gl.clear(gl.COLOR_BUFFER_BIT);
    gl.uniformMatrix4fv(this.uniform.view, false, [
      right[0], up[0], back[0], 0, right[1], up[1], back[1], 0, right[2], up[2], back[2], 0, 0, 0, -this.distance, 1]);
    const focal = 0.5 * Math.min(width, height) / Math.tan(this.fov * Math.PI / 360);
    gl.uniform2f(this.uniform.size, width, height);
    gl.uniform2f(this.uniform.focal, focal, focal);
    gl.bufferData(gl.ARRAY_BUFFER, this._farthestFirst(back), gl.DYNAMIC_DRAW);
    gl.drawArraysInstanced(gl.TRIANGLE_STRIP, 0, 4, this.count);
  }

  /** Indices by depth, by counting 65,536 classes of it. */
  _farthestFirst([x, y, z]) {
    const n = this.count, places = this.places, depth = new Float32Array(n);
    let low = Infinity, high = -Infinity;
    for (let i = 0; i < n; i++) {
      const near = depth[i] = x * places[3 * i] + y * places[3 * i + 1] + z * places[3 * i + 2];
      if (near < low) low = near;
      if (near > high) high = near;
    }
    const classes = 65536, scale = (classes - 1) / Math.max(high - low, 1e-9), start = new Uint32Array(classes + 1);
    for (let i = 0; i < n; i++) start[((depth[i] - low) * scale | 0) + 1]++;
    for (let k = 0; k < classes; k++) start[k + 1] += start[k];
    for (let i = 0; i < n; i++) this._order[start[(depth[i] - low) * scale | 0]++] = i;
    return this._order;
  }
}
