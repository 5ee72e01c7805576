// Operand access where every head starts at a multiple of 4: one vector load.

@group(0) @binding(1) var<storage, read> q: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> past: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> own: array<vec4<f32>>;

fn load_q4(place: u32, left: u32) -> vec4<f32> {
    return q[place / 4u];
}

fn load_kv4(in_past: bool, past_place: u32, own_place: u32, left: u32) -> vec4<f32> {
    var x: vec4<f32>;
    if in_past {
        x = past[past_place / 4u];
    } else {
        x = own[own_place / 4u];
    }
    return x;
}
