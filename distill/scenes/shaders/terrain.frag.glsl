in vec3 place;
in vec3 normal;
in vec4 colour;
out vec4 result;

// Detail projected along the axis that the surface faces most, blended: no stretching on cliffs.
vec2 detail(vec3 p, vec3 n) {
    vec3 w = pow(abs(n), vec3(4.0));
    w /= w.x + w.y + w.z;
    return w.x * noise_at(p.zy) + w.y * noise_at(p.xz) + w.z * noise_at(p.xy);
}

void main() {
    vec3 soft = normalize(normal);
    vec3 facet = normalize(cross(dFdx(place), dFdy(place)));
    if (dot(facet, soft) < 0.0) facet = -facet;
    float steep = smoothstep(0.10, 0.30, 1.0 - soft.y);
    vec3 n = normalize(mix(soft, facet, 0.12 + 0.75 * steep));

    float distance_m = distance(place, eye.xyz);
    vec2 broad = detail(place / 71.0, soft) - 0.5;
    vec2 fine = detail(place / 11.0, soft) - 0.5;
    float near = exp(-distance_m * 0.014);
    // Patches with an edge: shapes that the eye can follow where plain ground would show no motion.
    float patch_edge = broad.g + 0.35 * fine.r;
    float blotch = smoothstep(0.02, 0.10, patch_edge) - 0.5 * smoothstep(0.02, 0.10, -0.14 - patch_edge);
    vec3 albedo = colour.rgb * (1.0 + 0.30 * broad.r + 0.42 * fine.r * near - 0.17 * blotch);
    float border = abs(colour.w) + 1.3 * fine.g + 0.8 * broad.g;
    float trodden = smoothstep(trail.w + 0.22, trail.w - 0.12, border);
    albedo = mix(albedo, trail.rgb * (1.0 + 0.36 * fine.r * near), trodden * 0.88);
    albedo *= mix(1.0, 0.62, land.w * (1.0 - smoothstep(-0.1, 0.45, place.y)));   // wet sand

    result = vec4(toned(hazed(lighted(albedo, n, sunlit(place, n, 0.0), 1.0), place)), 1.0);
}
