//! Folders that hold a change to a model and not the model: what PEFT saves after it trained a LoRA.

use std::path::Path;

use serde::Deserialize;

use super::{CheckpointError, parse, read, weights};

/// PEFT's configuration, as far as it says what is to be merged.
#[derive(Deserialize)]
struct AdapterConfig {
    #[serde(default)]
    peft_type: Option<String>,
    #[serde(default)]
    base_model_name_or_path: Option<String>,
}

/// What is to be done about a folder that holds an adapter alone; none where there is a whole model.
pub(crate) fn find(folder: &Path) -> Result<Option<CheckpointError>, CheckpointError> {
    let path = folder.join("adapter_config.json");
    if weights::has_weights(folder) || !path.is_file() {
        return Ok(None);
    }
    let config: AdapterConfig = parse(&read(&path, "Give the folder that LeRobot saved")?, &path)?;
    let said = |text: Option<String>, or: &str| text.map_or(or.to_owned(), |text| text.chars().take(200).collect());
    Ok(Some(CheckpointError::Adapter {
        path: folder.to_owned(),
        kind: said(config.peft_type, "adapter"),
        base: said(config.base_model_name_or_path, "a base that it does not name"),
    }))
}
