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

    if (air.x + air.y > 0.0) albedo = weathered(albedo, place, soft);
    vec3 lit = lighted(albedo, n, sunlit(place, n, 0.0), 1.0);
    if (night.y > 0.0) lit += albedo * lamplight(place, 0.0);
    if (air.x > 0.0) {  // puddles mirror the sky where the ground is level
        vec3 d = normalize(place - eye.xyz);
        float puddle = smoothstep(0.05, 0.17, fine.g + 0.6 * broad.r) * smoothstep(0.94, 0.99, soft.y);
        float mirror = pow(1.0 - max(dot(-d, soft), 0.0), 3.0);
        vec3 r = reflect(d, vec3(0.0, 1.0, 0.0));
        lit = mix(lit, sky_gradient(r), air.x * (0.10 + 0.60 * puddle) * mirror);
        if (night.y > 0.0) lit += lamplight(place, 0.0) * 0.25 * puddle * air.x;
    }
    result = vec4(toned(hazed(lit, place)), 1.0);
}
