// Operand access for any place. Of a head, `left` numbers are left; what lies past them counts as zero.

@group(0) @binding(1) var<storage, read> q: array<f32>;
@group(0) @binding(2) var<storage, read> past: array<f32>;
@group(0) @binding(3) var<storage, read> own: array<f32>;

fn load_q4(place: u32, left: u32) -> vec4<f32> {
    var x = vec4<f32>();
    for (var i = 0u; i < min(left, 4u); i++) {
        x[i] = q[place + i];
    }
    return x;
}

fn load_kv4(in_past: bool, past_place: u32, own_place: u32, left: u32) -> vec4<f32> {
    var x = vec4<f32>();
    for (var i = 0u; i < min(left, 4u); i++) {
        if in_past {
            x[i] = past[past_place + i];
        } else {
            x[i] = own[own_place + i];
        }
    }
    return x;
}
