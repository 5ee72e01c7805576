// Operand access for any place.

@group(0) @binding(1) var<storage, read> q: array<f32>;
@group(0) @binding(2) var<storage, read> past: array<f32>;
@group(0) @binding(3) var<storage, read> own: array<f32>;

fn load_q4(place: u32) -> vec4<f32> {
    return vec4<f32>(q[place], q[place + 1u], q[place + 2u], q[place + 3u]);
}

fn load_kv4(in_past: bool, past_place: u32, own_place: u32) -> vec4<f32> {
    var x: vec4<f32>;
    if in_past {
        x = vec4<f32>(past[past_place], past[past_place + 1u], past[past_place + 2u], past[past_place + 3u]);
    } else {
        x = vec4<f32>(own[own_place], own[own_place + 1u], own[own_place + 2u], own[own_place + 3u]);
    }
    return x;
}
