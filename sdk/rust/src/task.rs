//! What a skill is asked and what it answers.

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

pub use crate::bindings::exports::waza::skill::task::Request;
pub use crate::bindings::waza::skill::types::Outcome;
use crate::{Error, Result, durable};

impl Request {
    /// The parameter `name` of the request's JSON object, or `default` where the object does not have it.
    ///
    /// # Errors
    /// [`Error::Invalid`] when the parameters are no JSON object or this one is of another type.
    pub fn parameter<T: DeserializeOwned>(&self, name: &str, default: T) -> Result<T> {
        if self.parameters.trim().is_empty() {
            return Ok(default);
        }
        let mut object: Map<String, Value> = serde_json::from_str(&self.parameters)
            .map_err(|error| Error::invalid(format!("the parameters are no JSON object: {error}")))?;
        match object.remove(name) {
            None => Ok(default),
            Some(value) => serde_json::from_value(value)
                .map_err(|error| Error::invalid(format!("the parameter {name} is wrong: {error}"))),
        }
    }
}

impl Request {
    /// What the run's last [`checkpoint`] said, if this run goes on where another ended: in an earlier version of the skill,
    /// or before the host was killed.
    ///
    /// # Errors
    /// [`Error::Invalid`] when it is of another form. A version that returns this before it has moved anything leaves the
    /// one before it at work.
    pub fn resumed<T: DeserializeOwned>(&self) -> Result<Option<T>> {
        let read = |state: &Vec<u8>| {
            serde_json::from_slice(state).map_err(|error| Error::invalid(format!("it cannot go on from here: {error}")))
        };
        self.resume.as_ref().map(read).transpose()
    }
}

/// A safe point: the host keeps `state` (as JSON, at most 1 MiB), and another version of the skill may go on from here.
/// Permission `durable`.
///
/// # Errors
/// [`Error::Failed`] when the state has no JSON form or could not be kept.
pub async fn checkpoint(state: &impl Serialize) -> Result<()> {
    let state = serde_json::to_vec(state).map_err(|error| Error::failed(format!("the state is no JSON: {error}")))?;
    durable::checkpoint(state).await
}

impl Outcome {
    /// A task that is done, with a sentence for people.
    pub fn new(summary: impl Into<String>) -> Self {
        Self { summary: summary.into(), data: "{}".into() }
    }

    /// Adds a value for programs to the outcome's JSON object.
    ///
    /// # Errors
    /// [`Error::Failed`] when the value has no JSON form.
    pub fn with(mut self, name: &str, value: impl Serialize) -> Result<Self> {
        let wrong = |error: serde_json::Error| Error::failed(format!("the outcome's {name} is no JSON: {error}"));
        let mut object: Map<String, Value> = serde_json::from_str(&self.data).map_err(wrong)?;
        object.insert(name.into(), serde_json::to_value(value).map_err(wrong)?);
        self.data = Value::Object(object).to_string();
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(parameters: &str) -> Request {
        Request { instruction: "touch the red block".into(), parameters: parameters.into(), resume: None }
    }

    #[test]
    fn a_parameter_that_is_absent_takes_its_default() {
        assert_eq!(request("").parameter("seconds", 20.0), Ok(20.0));
        assert_eq!(request("{}").parameter("seconds", 20.0), Ok(20.0));
        assert_eq!(request(r#"{"seconds": 5}"#).parameter("seconds", 20.0), Ok(5.0));
    }

    #[test]
    fn a_parameter_of_another_type_is_refused_by_name() {
        let refused = request(r#"{"seconds": "long"}"#).parameter("seconds", 20.0);
        assert!(matches!(&refused, Err(Error::Invalid(why)) if why.contains("seconds")), "{refused:?}");
        assert!(matches!(request("[1]").parameter("seconds", 20.0), Err(Error::Invalid(_))));
    }

    #[test]
    fn a_run_goes_on_from_a_state_of_its_own_form_and_refuses_another() {
        let resumed = |state: &[u8]| Request { resume: Some(state.into()), ..request("") }.resumed::<(u32, String)>();
        assert_eq!(request("").resumed::<(u32, String)>(), Ok(None));
        assert_eq!(resumed(br#"[3, "carrying"]"#), Ok(Some((3, "carrying".into()))));
        assert!(matches!(resumed(b"\x03"), Err(Error::Invalid(_))));
    }

    #[test]
    fn an_outcomes_values_gather_in_one_object() {
        let outcome = Outcome::new("touched").with("force_n", 2.5).unwrap().with("contact", true).unwrap();
        let data: Value = serde_json::from_str(&outcome.data).unwrap();
        assert_eq!(data, serde_json::json!({"force_n": 2.5, "contact": true}));
    }
}
