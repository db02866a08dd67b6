in vec3 ray;
out vec4 result;

// Silhouettes too far away to move as one walks: the sky carries them, two ranges deep.
vec3 far_mountains(vec3 d, vec3 colour) {
    float turn = atan(d.z, d.x) / 6.2831853;
    float tangent = d.y / length(d.xz);
    for (int i = 0; i < 2; i++) {
        vec2 p = vec2(turn * (1.0 + float(i)) + 0.31 * float(i), 0.13 + 0.4 * float(i) + cloud.z);
        float profile = 0.70 * noise_at(p).r + 0.30 * noise_at(vec2(p.x * 3.0, p.y + 0.2)).r;
        float top = ridge.w * (i == 0 ? 0.25 + 0.75 * profile : 0.10 + 0.52 * profile);
        float inside = smoothstep(0.0, 0.0015, top - tangent);
        float snow_edge = top - ridge.w * (0.16 + 0.22 * noise_at(vec2(turn * 9.0, tangent * 3.0)).r);
        float snow = ridge_top.w * float(i == 0) * smoothstep(-0.01, 0.012, tangent - snow_edge);
        vec3 rock = mix(ridge.rgb, ridge_top.rgb, snow);
        float veil = (i == 0 ? 0.58 : 0.40) + 0.35 * (1.0 - clamp(tangent / max(ridge.w, 1e-3), 0.0, 1.0));
        colour = mix(colour, mix(rock, sky_gradient(vec3(d.x, 0.0, d.z)), clamp(veil, 0.0, 1.0)), inside);
    }
    return colour;
}

void main() {
    vec3 d = normalize(ray);
    vec3 colour = sky_with_clouds(d);
    colour += sun_colour.rgb * smoothstep(0.99925, 0.99965, dot(d, sun.xyz)) * 1.6;
    if (ridge.w > 0.0 && d.y < ridge.w) colour = far_mountains(d, colour);
    colour = mix(colour, mix(ground_haze.rgb, sky_gradient(vec3(d.x, 0.0, d.z)), 0.6), smoothstep(0.0, 0.03, -d.y));
    result = vec4(toned(colour), 1.0);
}
