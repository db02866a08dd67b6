in vec3 in_position;
in vec3 in_normal;
in vec4 in_colour;
in vec4 i_place;      // xyz, scale
in vec4 i_look;       // yaw, tint
in vec4 i_shape;      // vertical stretch or radius of motion, draw distance, softness, motion
out vec3 place;
out vec3 normal;
out vec3 colour;
out float height;
flat out float softness;
out float shine;

// Motions of kinds.py: turn about z, go round on the water, go round in the air. The fraction of
// the motion is its phase.
void move(inout vec3 local, inout vec3 local_normal, inout vec3 origin, inout float yaw) {
    float phase = fract(i_shape.w) * 6.2831853, t = eye.w;
    if (i_shape.w < 2.0) {
        float a = phase + 0.8 * t;
        mat2 turn = mat2(cos(a), sin(a), -sin(a), cos(a));
        local.xy = turn * local.xy;
        local_normal.xy = turn * local_normal.xy;
        return;
    }
    bool flies = i_shape.w >= 3.0;
    float a = phase + t * (flies ? 5.5 : 0.55) / i_shape.x;
    origin.xz += i_shape.x * vec2(cos(a), sin(a));
    yaw = -a;
    if (flies) {
        local.y += abs(local.x) * 0.75 * sin(7.5 * t + 9.0 * phase);
        origin.y += 0.7 * sin(0.6 * t + phase);
    } else {
        origin.y += 0.06 * sin(1.4 * t + phase);
        local.y += 0.04 * local.x * sin(1.1 * t + 2.0 * phase);
    }
}

void main() {
    vec3 origin = i_place.xyz, local = in_position, local_normal = in_normal;
    float yaw = i_look.x, stretch = i_shape.x;
    if (i_shape.w > 0.0) {
        move(local, local_normal, origin, yaw);
        stretch = 1.0;
    }
    float c = cos(yaw), s = sin(yaw);
    mat3 turn = mat3(c, 0.0, -s, 0.0, 1.0, 0.0, s, 0.0, c);
    // Small things grow out of the ground as they come into range, instead of popping up.
    float range = smoothstep(1.0, 0.72, distance(i_place.xyz, eye.xyz) / i_shape.y);
    place = origin + turn * (local * vec3(1.0, stretch, 1.0)) * i_place.w * range;
    normal = turn * (local_normal * vec3(1.0, 1.0 / stretch, 1.0));
    float tint = in_colour.a > 1.5 ? 0.0 : in_colour.a;
    shine = in_colour.a - tint;
    colour = mix(in_colour.rgb, in_colour.rgb * i_look.yzw, tint);
    softness = i_shape.z < 0.0 ? -1.0 : i_shape.z * tint;
    height = in_position.y;
    gl_Position = clip_from_world * vec4(place, 1.0);
}
