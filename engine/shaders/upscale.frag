// Edge-adaptive upscale: twelve source pixels, weighted by a small Lanczos-like kernel that is turned
// to the local edge and stretched along it, so that edges stay smooth lines instead of stairs.
//
// Own implementation of the idea of EASU in AMD FidelityFX Super Resolution 1.0 (T. Lottes, 2021,
// MIT licence, https://gpuopen.com/fidelityfx-superresolution/): its twelve taps, its kernel
// polynomials and its clamp. The edge comes from a structure tensor instead.
uniform sampler2D frame;
uniform float brightness;
in vec2 frame_uv;
out vec4 colour;

ivec2 last;

vec3 pixel(ivec2 at) {
    return texelFetch(frame, clamp(at, ivec2(0), last), 0).rgb;
}

float luma(vec3 rgb) {
    return dot(rgb, vec3(0.299, 0.587, 0.114));
}

// (xx, yy, xy) of the gradient between the four neighbours of one pixel.
vec3 tensor(float west, float east, float north, float south) {
    vec2 gradient = vec2(east - west, south - north);
    return vec3(gradient * gradient, gradient.x * gradient.y);
}

// `across` is the unit vector across the edge; `reach` scales distances across and along it.
float weight(vec2 offset, vec2 across, vec2 reach, float lobe) {
    vec2 turned = vec2(dot(offset, across), dot(offset, vec2(-across.y, across.x))) * reach;
    float square = min(dot(turned, turned), 1.0 / lobe);
    float base = 0.4 * square - 1.0;
    float window = lobe * square - 1.0;
    return (1.5625 * base * base - 0.5625) * window * window;
}

void main() {
    ivec2 size = textureSize(frame, 0);
    last = size - 1;
    vec2 position = frame_uv * vec2(size) - 0.5;
    ivec2 at = ivec2(floor(position));
    vec2 part = position - vec2(at);

    //     b c
    //   e f g h      the sample lies between f, g, j and k
    //   i j k l
    //     n o
    vec3 b = pixel(at + ivec2(0, -1)), c = pixel(at + ivec2(1, -1));
    vec3 e = pixel(at + ivec2(-1, 0)), f = pixel(at), g = pixel(at + ivec2(1, 0));
    vec3 h = pixel(at + ivec2(2, 0)), i = pixel(at + ivec2(-1, 1)), j = pixel(at + ivec2(0, 1));
    vec3 k = pixel(at + ivec2(1, 1)), l = pixel(at + ivec2(2, 1));
    vec3 n = pixel(at + ivec2(0, 2)), o = pixel(at + ivec2(1, 2));

    float F = luma(f), G = luma(g), J = luma(j), K = luma(k);
    vec3 edge = mix(
        mix(tensor(luma(e), G, luma(b), J), tensor(F, luma(h), luma(c), K), part.x),
        mix(tensor(luma(i), K, F, luma(n)), tensor(J, luma(l), G, luma(o)), part.x),
        part.y);

    float energy = edge.x + edge.y;
    float anisotropy = length(vec2(edge.x - edge.y, 2.0 * edge.z));
    // 0 where the picture is flat, noisy or a corner, 1 on a clear straight edge.
    float clear = anisotropy / (energy + 1e-6) * smoothstep(0.0, 0.004, energy);
    float angle = 0.5 * atan(2.0 * edge.z, edge.x - edge.y + 1e-9);
    vec2 across = vec2(cos(angle), sin(angle));

    // On diagonals pixels lie closer together across the edge than along an axis.
    float stretch = 1.0 / max(abs(across.x), abs(across.y));
    vec2 reach = vec2(mix(1.0, stretch, clear), mix(1.0, 0.5, clear));
    float lobe = mix(0.5, 0.21, clear);

    vec3 sum = vec3(0.0);
    float total = 0.0;
    float w;
#define TAP(rgb, x, y) w = weight(vec2(x, y) - part, across, reach, lobe); sum += w * rgb; total += w;
    TAP(b, 0.0, -1.0) TAP(c, 1.0, -1.0)
    TAP(e, -1.0, 0.0) TAP(f, 0.0, 0.0) TAP(g, 1.0, 0.0) TAP(h, 2.0, 0.0)
    TAP(i, -1.0, 1.0) TAP(j, 0.0, 1.0) TAP(k, 1.0, 1.0) TAP(l, 2.0, 1.0)
    TAP(n, 0.0, 2.0) TAP(o, 1.0, 2.0)

    vec3 low = min(min(f, g), min(j, k)), high = max(max(f, g), max(j, k));
    colour = vec4(clamp(sum / total, low, high) * brightness, 1.0);
}
