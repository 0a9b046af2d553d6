//! The language for an editor: JSON Schema, draft 2020-12.
//!
//! It tells which keys and words there are and what kind of value each takes. What makes sense
//! together is the reader's to say.

use super::{Port, Transport};
use crate::base::step::{Action, Query};
use serde_json::{Map, Value, json};

/// A time as the language writes it.
const TIME: &str = "^([0-9]+(ms|s|m|h|d))+$";

/// A size as the language writes it.
const SIZE: &str = "^[0-9]+ ?(B|KiB|MiB|GiB)$";

/// A name.
const NAME: &str = "^[A-Za-z0-9_-][A-Za-z0-9_.-]{0,63}$";

/// The schema of a scenario.
#[must_use]
pub fn schema() -> Value {
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "lifesign scenario",
        "description": "How to tell that an app lives, and what to collect when it does not.",
        "type": "object",
        "properties": merged(&[what(), when(), counts()]),
        "required": ["scenario", "probe", "diagnose"],
        "not": { "required": ["period", "cron"] },
        "additionalProperties": false,
        "$defs": {
            "time": { "type": "string", "pattern": TIME },
            "cron": { "type": "string" },
            "line": { "type": "string", "maxLength": 1024 },
            "pattern": {
                "oneOf": [
                    { "type": "string", "minLength": 1, "maxLength": 1024 },
                    only("regex", json!({ "type": "string", "minLength": 1 })),
                ],
            },
            "port": { "type": "integer", "minimum": 1, "maximum": 65535 },
            "nothing": object(json!({}), &[]),
            "secret": only("secret", json!({ "type": "string", "pattern": NAME })),
            "exchange": object(json!({ "send": line(), "expect": pattern() }), &["send", "expect"]),
            "probe": { "oneOf": probes() },
            "step": { "oneOf": steps() },
        },
    })
}

fn what() -> Value {
    json!({
        "scenario": { "type": "string", "pattern": NAME, "description": "Its name." },
        "summary": { "type": "string", "description": "What it is for, in a sentence." },
        "probe": list("probe", 1, "What is asked, in this order."),
        "arm": arm(),
        "diagnose": list("step", 0, "What is collected when it has failed, in this order."),
        "budget": {
            "description": "What collecting may cost.",
            "type": "object",
            "properties": { "time": time(), "bytes": { "type": "string", "pattern": SIZE } },
            "additionalProperties": false,
        },
    })
}

fn arm() -> Value {
    let event = json!({ "type": "string", "pattern": "^[a-z0-9_]+(:[a-z0-9_]+)?$" });
    json!({
        "description": "What the guest's kernel records while it is well.",
        "type": "object",
        "properties": {
            "events": { "type": "array", "items": event, "maxItems": 8 },
            "tracer": { "enum": ["function"] },
            "buffer": { "type": "string", "pattern": SIZE },
        },
        "additionalProperties": false,
    })
}

fn when() -> Value {
    let window = json!({ "cron": { "$ref": "#/$defs/cron" }, "for": time(), "why": line() });
    json!({
        "period": described(time(), "From one round to the next; 30s if nothing is said."),
        "cron": { "$ref": "#/$defs/cron", "description": "Times of rounds instead of a period." },
        "zone": { "type": "string", "description": "The time zone of `cron` and `except`; UTC." },
        "timeout": described(time(), "For one probe; 5s if nothing is said."),
        "roundTimeout": described(time(), "For all probes of a round together."),
        "initialDelay": described(time(), "From the app's start until dead rounds count; 3m."),
        "except": {
            "description": "Maintenance windows, in which no round starts.",
            "type": "array",
            "items": object(window, &["cron", "for", "why"]),
        },
    })
}

fn counts() -> Value {
    let flap = json!({ "changes": { "type": "integer", "minimum": 2 }, "within": time() });
    json!({
        "failureThreshold": count("Dead rounds in a row that make it failed; 3."),
        "successThreshold": count("Alive rounds in a row that make it healthy again; 1."),
        "witnesses": count("Transports that must say dead, unless one is conclusive."),
        "flap": described(
            object(flap, &["changes", "within"]),
            "So many changes within so long are told as flapping.",
        ),
    })
}

fn probes() -> Vec<Value> {
    let words = Transport::ALL.map(|transport| {
        let value = match transport {
            Transport::Console => console(),
            Transport::Log => log(),
            Transport::Disk => disk(),
            Transport::Network => network(),
            Transport::Agent => agent(),
            Transport::Vcpu => json!({ "$ref": "#/$defs/nothing" }),
        };
        only(transport.word(), value)
    });
    words.to_vec()
}

fn console() -> Value {
    let port = json!({ "enum": Port::ALL.map(Port::word) });
    let shell = json!({ "type": "boolean" });
    let user = json!({ "oneOf": [line(), { "$ref": "#/$defs/secret" }] });
    let login =
        object(json!({ "user": user, "password": { "$ref": "#/$defs/secret" } }), &["user"]);
    let dialogue =
        json!({ "type": "array", "minItems": 1, "items": { "$ref": "#/$defs/exchange" } });
    json!({ "oneOf": [
        object(
            json!({
                "port": port,
                "login": login,
                "shell": shell,
                "send": line(),
                "expect": pattern(),
            }),
            &["send", "expect"],
        ),
        object(
            json!({ "port": port, "login": login, "shell": shell, "dialogue": dialogue }),
            &["dialogue"],
        ),
        object(json!({ "port": port, "silence": time() }), &["silence"]),
    ] })
}

fn log() -> Value {
    let never = json!({ "type": "array", "minItems": 1, "items": pattern() });
    json!({ "oneOf": [
        object(json!({ "label": line(), "within": time() }), &["label", "within"]),
        only("never", never),
    ] })
}

fn disk() -> Value {
    let heartbeat = object(json!({ "device": line(), "within": time() }), &["device", "within"]);
    let written =
        object(json!({ "written-within": time(), "device": line() }), &["written-within"]);
    json!({ "oneOf": [written, only("heartbeat", heartbeat)] })
}

fn network() -> Value {
    let port = || json!({ "$ref": "#/$defs/port" });
    let target = json!({ "type": "string", "pattern": "^:[0-9]{1,5}/[!-~]*$" });
    let status = json!({ "type": "integer", "minimum": 100, "maximum": 599 });
    let nothing = || json!({ "$ref": "#/$defs/nothing" });
    json!({ "oneOf": [
        only("ping", nothing()),
        only("arp", nothing()),
        object(json!({ "tcp": port(), "send": line(), "expect": pattern() }), &["tcp"]),
        only("closed", port()),
        object(
            json!({ "http": target, "host": line(), "status": status, "expect": pattern() }),
            &["http"],
        ),
        object(
            json!({
                "https": target,
                "host": line(),
                "status": status,
                "expect": pattern(),
                "certificate-valid-for": time(),
            }),
            &["https"],
        ),
    ] })
}

fn agent() -> Value {
    let nothing = || json!({ "$ref": "#/$defs/nothing" });
    let command = json!({ "type": "array", "minItems": 1, "items": { "type": "string" } });
    json!({ "oneOf": [only("ping", nothing()), only("info", nothing()), only("exec", command)] })
}

fn steps() -> Vec<Value> {
    let words = |words: Vec<&str>| json!({ "type": "array", "items": { "enum": words } });
    vec![
        json!({ "enum": ["host", "console", "records", "memory", "lend-sysrq", "debugger", "dump", "nmi"] }),
        only("qmp", words(Query::ALL.map(Query::word).to_vec())),
        only("sysrq", words(Action::ALL.map(Action::word).to_vec())),
    ]
}

// === what is common ===

fn object(properties: Value, required: &[&str]) -> Value {
    json!({
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": false,
    })
}

/// A map of one key.
fn only(key: &str, value: Value) -> Value {
    let mut properties = Map::new();
    properties.insert(key.to_owned(), value);
    object(Value::Object(properties), &[key])
}

fn described(mut value: Value, description: &str) -> Value {
    value["description"] = description.into();
    value
}

fn list(item: &str, least: usize, description: &str) -> Value {
    let items = json!({ "$ref": format!("#/$defs/{item}") });
    json!({ "type": "array", "minItems": least, "items": items, "description": description })
}

fn count(description: &str) -> Value {
    json!({ "type": "integer", "minimum": 1, "description": description })
}

fn time() -> Value {
    json!({ "$ref": "#/$defs/time" })
}

fn line() -> Value {
    json!({ "$ref": "#/$defs/line" })
}

fn pattern() -> Value {
    json!({ "$ref": "#/$defs/pattern" })
}

fn merged(parts: &[Value]) -> Value {
    let entries = parts.iter().filter_map(Value::as_object).flatten();
    Value::Object(entries.map(|(key, value)| (key.clone(), value.clone())).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    /// Whether a value is what a schema says: as much of the standard as this one uses.
    fn is_valid(value: &Value, schema: &Value, root: &Value) -> bool {
        let one = |schema: &Value| is_valid(value, schema, root);
        if let Some(reference) = schema["$ref"].as_str() {
            return one(root.pointer(&reference[1..]).unwrap());
        }
        if let Some(all) = schema["oneOf"].as_array() {
            return all.iter().filter(|schema| one(schema)).count() == 1;
        }
        if let Some(words) = schema["enum"].as_array() {
            return words.contains(value);
        }
        if schema["not"].is_object() && is_valid(value, &schema["not"], root) {
            return false;
        }
        match value {
            Value::Object(entries) => {
                let required = schema["required"].as_array().map_or(&[][..], Vec::as_slice);
                let has = |key: &Value| entries.contains_key(key.as_str().unwrap());
                let fits = |(key, value): (&String, &Value)| {
                    let known = schema["properties"].get(key);
                    known.map_or(schema["additionalProperties"] != false, |schema| {
                        is_valid(value, schema, root)
                    })
                };
                schema["type"].as_str().is_none_or(|kind| kind == "object")
                    && required.iter().all(has)
                    && entries.iter().all(fits)
            }
            Value::Array(items) => {
                schema["type"] == "array"
                    && items.len() as u64 >= schema["minItems"].as_u64().unwrap_or(0)
                    && items.iter().all(|item| is_valid(item, &schema["items"], root))
            }
            Value::String(text) => {
                let fits = |pattern: &str| regex::Regex::new(pattern).unwrap().is_match(text);
                schema["type"] == "string" && schema["pattern"].as_str().is_none_or(fits)
            }
            Value::Number(number) => {
                let number = number.as_u64().unwrap();
                schema["type"] == "integer"
                    && schema["minimum"].as_u64().is_none_or(|least| number >= least)
                    && schema["maximum"].as_u64().is_none_or(|most| number <= most)
            }
            Value::Bool(_) => schema["type"] == "boolean",
            Value::Null => false,
        }
    }

    fn valid(path: &std::path::Path) -> bool {
        let text = std::fs::read_to_string(path).unwrap();
        let value: Value = serde_saphyr::from_str(&text).unwrap();
        let schema = schema();
        is_valid(&value, &schema, &schema)
    }

    /// Every key and every word that may stand for itself.
    fn words(schema: &Value, words: &mut BTreeSet<String>) {
        match schema {
            Value::Object(entries) => {
                if let Some(properties) = entries.get("properties").and_then(Value::as_object) {
                    words.extend(properties.keys().cloned());
                }
                if let Some(all) = entries.get("enum").and_then(Value::as_array) {
                    words.extend(all.iter().map(|word| word.as_str().unwrap().to_owned()));
                }
                entries.values().for_each(|value| self::words(value, words));
            }
            Value::Array(items) => items.iter().for_each(|item| self::words(item, words)),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }

    #[test]
    fn the_shipped_scenarios_fit() {
        for file in std::fs::read_dir("scenarios").unwrap() {
            let path = file.unwrap().path();
            assert!(valid(&path), "{}", path.display());
        }
    }

    #[test]
    fn what_is_not_of_the_language_does_not_fit() {
        let data = std::path::Path::new("tests/data/scenario/bad");
        for name in [
            "01-typos",
            "08-numbers-without-unit",
            "14-period-and-cron",
            "16-windows",
            "20-plain-password",
            "21-two-questions-in-one",
            "22-words-of-another-question",
            "23-http-by-url",
            "24-ports",
            "25-questions-without-what-they-need",
            "26-text-where-a-map-is-meant",
            "28-names",
            "29-things-to-collect",
        ] {
            assert!(!valid(&data.join(format!("{name}.yaml"))), "{name}");
        }
    }

    #[test]
    fn it_has_the_keys_that_the_reader_knows() {
        let schema = schema();
        let has: BTreeSet<&str> =
            schema["properties"].as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(has, super::super::read::KEYS.into_iter().collect());
    }

    #[test]
    fn every_word_of_the_language_is_in_the_reference() {
        let reference = include_str!("../../docs/scenario.md");
        let mut all = BTreeSet::new();
        words(&schema(), &mut all);
        assert!(all.len() > 50);
        // In a table or a sentence a word stands between ` or in a map between ` and `.
        let told: BTreeSet<&str> = reference
            .split('`')
            .skip(1)
            .step_by(2)
            .flat_map(|code| code.split(|c: char| !(c.is_ascii_alphanumeric() || c == '-')))
            .collect();
        let missing: Vec<&String> =
            all.iter().filter(|word| !told.contains(word.as_str())).collect();
        assert!(missing.is_empty(), "{missing:?}");
    }
}
