#version 330

layout(std140) uniform World {
    mat4 shadow_from_world;
    vec4 sun;           // towards the sun
    vec4 sun_colour;
    vec4 zenith;
    vec4 horizon;       // w: ambient strength
    vec4 glow;          // around a low sun
    vec4 bounce;        // light that the ground throws back
    vec4 haze;          // x: density per metre
    vec4 cloud;         // x: threshold, y: softness, zw: offset
    vec4 ridge;         // far mountains; w: tangent of their elevation
    vec4 ridge_top;     // w: how much of them is snow
    vec4 shallow;
    vec4 deep;
    vec4 ground_haze;   // seen below the horizon beyond the edge of the world
    vec4 trail;         // w: half width in metres
    vec4 land;          // x: size in metres, y: snow on things, z: supersampling, w: has water
    vec4 night;         // x: lamps are lit, y: there are any, z: stars, w: overcast
    vec4 air;           // x: wet ground, y: snow on the ground, z: rain, w: snow that falls
};

layout(std140) uniform Frame {
    mat4 clip_from_world;
    vec4 eye;           // w: seconds since the clip began
    vec4 ray_middle;    // world direction of the image centre ...
    vec4 ray_right;     // ... and its change towards the right and the lower border
    vec4 ray_down;
};

uniform sampler2D noise_map;            // r: broad, g: fine; repeats
uniform sampler2DShadow shadow_map;
uniform sampler2D lamp_map;

const vec3 LAMP = vec3(1.0, 0.58, 0.24);

vec2 noise_at(vec2 p) { return texture(noise_map, p).rg; }

vec3 sky_gradient(vec3 d) {
    float height = max(d.y, 0.0);
    vec3 colour = mix(horizon.rgb, zenith.rgb, pow(height, 0.55));
    vec2 flat_d = normalize(d.xz + 1e-5), flat_sun = normalize(sun.xz);
    float towards = 0.5 + 0.5 * dot(flat_d, flat_sun);
    colour += glow.rgb * exp(-height * 5.5) * (0.18 + 0.82 * towards * towards);
    float near_sun = max(dot(d, sun.xyz), 0.0);
    return colour + sun_colour.rgb * (0.045 * pow(near_sun, 6.0) + 0.13 * pow(near_sun, 48.0));
}

vec3 sky_with_clouds(vec3 d) {
    vec3 colour = sky_gradient(d);
    if (d.y > 0.015) {
        vec2 p = d.xz / (d.y + 0.22) * 0.105 + cloud.zw;
        float n = 0.62 * noise_at(p).r + 0.38 * noise_at(p * 2.3 + 0.37).r;
        float sunward = 0.62 * noise_at(p + sun.xz * 0.025).r + 0.38 * noise_at(p * 2.3 + 0.37).r;
        float cover = smoothstep(cloud.x, cloud.x + cloud.y, n) * smoothstep(0.015, 0.20, d.y);
        vec3 bright = sun_colour.rgb * 0.30 + horizon.rgb * 0.62;
        vec3 shaded = mix(horizon.rgb, zenith.rgb, 0.45) * 0.86 + glow.rgb * 0.25;
        colour = mix(colour, mix(bright, shaded, smoothstep(cloud.x, cloud.x + 0.34, sunward)), cover * 0.88);
    }
    return colour;
}

vec3 hazed(vec3 colour, vec3 place) {
    vec3 v = place - eye.xyz;
    float distance_m = length(v);
    vec3 d = v / distance_m;
    float share = 1.0 - exp(-pow(distance_m * haze.x, 1.35));
    return mix(colour, sky_gradient(vec3(d.x, max(d.y, 0.0), d.z)), clamp(share, 0.0, 1.0));
}

// Filmic curve, then sRGB.
vec3 toned(vec3 c) {
    c *= 0.70;
    c = clamp((c * (2.51 * c + 0.03)) / (c * (2.43 * c + 0.59) + 0.14), 0.0, 1.0);
    return pow(c, vec3(1.0 / 2.2));
}

// `softness` 1 wraps the light around, as leaves do that let some of it through.
float sunlit(vec3 place, vec3 normal, float softness) {
    float wrap = 0.34 * softness;
    float facing = max((dot(normal, sun.xyz) + wrap) / (1.0 + wrap), 0.0);
    vec3 q = (shadow_from_world * vec4(place + normal * mix(0.12, 0.45, softness), 1.0)).xyz * 0.5 + 0.5;
    if (any(lessThan(q, vec3(0.0))) || any(greaterThan(q, vec3(1.0)))) return facing;
    vec2 texel = 1.0 / vec2(textureSize(shadow_map, 0));
    float bias = 0.0006 + 0.0014 * (1.0 - facing);
    float light = 0.0;
    for (int i = 0; i < 2; i++)
        for (int j = 0; j < 2; j++)
            light += texture(shadow_map, vec3(q.xy + (vec2(i, j) - 0.5) * texel * 1.4, q.z - bias));
    float through = 0.17 * softness * max(-dot(normal, sun.xyz), 0.0);
    return facing * mix(light * 0.25, 1.0, 0.14 * softness) + through;
}

vec3 lighted(vec3 albedo, vec3 normal, float sun_share, float openness) {
    vec3 sky = mix(zenith.rgb, horizon.rgb, 0.55);
    vec3 ambient = mix(bounce.rgb, sky, 0.5 + 0.5 * normal.y) * horizon.w * openness;
    return albedo * (sun_colour.rgb * sun_share + ambient);
}

// What lamps throw on things `height` metres above the ground.
vec3 lamplight(vec3 place, float height) {
    float flicker = 1.0 + 0.07 * sin(eye.w * 9.0 + place.x * 0.2) * sin(eye.w * 5.3);
    float share = texture(lamp_map, place.xz / land.x + 0.5).r;
    return LAMP * (1.7 * night.x * flicker * share * exp(-0.28 * max(height, 0.0)));
}

// Rain and snow lie on what faces up.
vec3 weathered(vec3 albedo, vec3 place, vec3 normal) {
    albedo *= 1.0 - 0.38 * air.x;
    float lies = smoothstep(0.30, 0.72, normal.y + 0.35 * (noise_at(place.xz * 0.07).g - 0.5));
    return mix(albedo, vec3(0.74, 0.79, 0.88) * (0.9 + 0.2 * noise_at(place.xz * 0.03).r), 0.88 * air.y * lies);
}
