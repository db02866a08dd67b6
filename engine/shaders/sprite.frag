uniform sampler2D sprite;
in vec2 sprite_uv;
out vec4 colour;

void main() {
    colour = texelFetch(sprite, ivec2(sprite_uv * vec2(textureSize(sprite, 0))), 0);
}
