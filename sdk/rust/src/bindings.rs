//! What `wit-bindgen` makes of the contract. `wit` beside this crate's manifest is the frozen folder of version 0.1.0.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

wit_bindgen::generate!({
    world: "skill",
    path: "wit",
    runtime_path: "waza_sdk::wit_bindgen::rt",
    default_bindings_module: "waza_sdk::bindings",
    pub_export_macro: true,
    export_macro_name: "export",
    additional_type_attributes: {
        "waza:skill/types@0.1.0/error": [#[derive(PartialEq, Eq)]],
    },
});
