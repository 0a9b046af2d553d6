//! A diagnosis as JSON, in the index and for those who script.

use crate::diagnosis::Diagnosis;
use serde::{Deserialize, Serialize};

/// The same fields as [`Diagnosis`], in words.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[expect(missing_docs, reason = "the names are those of Diagnosis")]
pub struct Record {
    pub class: String,
    pub subject: String,
    pub title: String,
    pub signature: String,
    pub blame: String,
    pub confidence: String,
    #[serde(rename = "for")]
    pub facts_for: Vec<String>,
    #[serde(rename = "against")]
    pub facts_against: Vec<String>,
}

impl From<&Diagnosis> for Record {
    fn from(diagnosis: &Diagnosis) -> Self {
        Self {
            class: diagnosis.class.to_string(),
            subject: diagnosis.subject.clone(),
            title: diagnosis.title.clone(),
            signature: diagnosis.signature.clone(),
            blame: diagnosis.blame.to_string(),
            confidence: diagnosis.confidence.to_string(),
            facts_for: diagnosis.facts_for.clone(),
            facts_against: diagnosis.facts_against.clone(),
        }
    }
}

impl Record {
    /// As it is kept.
    #[must_use]
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("plain data becomes JSON")
    }

    /// Reads what [`Record::to_json`] wrote.
    #[must_use]
    pub fn from_json(text: &str) -> Option<Self> {
        serde_json::from_str(text).ok()
    }
}
