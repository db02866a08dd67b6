// Mild sharpening at source resolution: after a large upscale there is nothing left to sharpen. The
// result stays between the darkest and the brightest neighbour, so edges get steeper but no halo.
uniform sampler2D frame;
uniform float sharpness;  // 0 to 1
out vec4 colour;

vec3 pixel(ivec2 at) {
    return texelFetch(frame, clamp(at, ivec2(0), textureSize(frame, 0) - 1), 0).rgb;
}

void main() {
    ivec2 at = ivec2(gl_FragCoord.xy);
    vec3 here = pixel(at);
    vec3 north = pixel(at + ivec2(0, -1)), south = pixel(at + ivec2(0, 1));
    vec3 west = pixel(at + ivec2(-1, 0)), east = pixel(at + ivec2(1, 0));
    vec3 low = min(here, min(min(north, south), min(west, east)));
    vec3 high = max(here, max(max(north, south), max(west, east)));
    vec3 detail = here - 0.25 * (north + south + west + east);
    colour = vec4(clamp(here + sharpness * detail, low, high), 1.0);
}
