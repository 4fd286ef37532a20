//! Reading the parameters of a call, with Geth's words for what is wrong with them.
//!
//! Owns errors and the reading of single values. Does not know methods. Pure.

use alloy_primitives::{Address, B256, hex};
use serde_json::Value;

/// A JSON-RPC error as a node words it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RpcError {
    pub(super) code: i32,
    pub(super) message: String,
}

impl RpcError {
    pub(super) fn new(code: i32, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }

    /// The request cannot be read.
    pub(super) fn invalid(message: impl Into<String>) -> Self {
        Self::new(-32_602, message)
    }

    /// The request was read and failed.
    pub(super) fn failed(message: impl Into<String>) -> Self {
        Self::new(-32_000, message)
    }
}

/// The positional parameters of one call.
#[derive(Debug)]
pub(super) struct Args(Vec<Value>);

impl Args {
    /// Reads the text of `params`; an absent one has no values.
    pub(super) fn parse(params: Option<&str>) -> Result<Self, RpcError> {
        match serde_json::from_str(params.unwrap_or("[]")) {
            Ok(Value::Array(values)) => Ok(Self(values)),
            Ok(Value::Null) => Ok(Self(Vec::new())),
            _ => Err(RpcError::invalid("non-array args")),
        }
    }

    /// The values, to be changed by a fault.
    pub(super) fn values_mut(&mut self) -> &mut Vec<Value> {
        &mut self.0
    }

    /// A value that may be absent or null.
    pub(super) fn optional(&self, place: usize) -> Option<&Value> {
        self.0.get(place).filter(|value| !value.is_null())
    }

    pub(super) fn required(&self, place: usize) -> Result<&Value, RpcError> {
        let missing = || RpcError::invalid(format!("missing value for required argument {place}"));
        self.optional(place).ok_or_else(missing)
    }

    pub(super) fn hash(&self, place: usize) -> Result<B256, RpcError> {
        hash(self.required(place)?).map_err(|why| at(place, &why))
    }

    pub(super) fn address(&self, place: usize) -> Result<Address, RpcError> {
        address(self.required(place)?).map_err(|why| at(place, &why))
    }

    pub(super) fn bytes(&self, place: usize) -> Result<Vec<u8>, RpcError> {
        bytes(self.required(place)?, "hexutil.Bytes").map_err(|why| at(place, &why))
    }

    pub(super) fn quantity(&self, place: usize) -> Result<u64, RpcError> {
        quantity(self.required(place)?).map_err(|why| at(place, &why))
    }

    /// A flag; an error where it is absent.
    pub(super) fn flag(&self, place: usize) -> Result<bool, RpcError> {
        let value = self.required(place)?;
        value.as_bool().ok_or_else(|| at(place, &misfit(value, "value of type bool")))
    }

    /// A count, which may also be a plain number.
    pub(super) fn count(&self, place: usize) -> Result<u64, RpcError> {
        match self.required(place)?.as_u64() {
            Some(number) => Ok(number),
            None => self.quantity(place),
        }
    }
}

/// An error about one argument.
pub(super) fn at(place: usize, why: &str) -> RpcError {
    RpcError::invalid(format!("invalid argument {place}: {why}"))
}

/// Geth's words for a JSON value of the wrong kind.
pub(super) fn misfit(value: &Value, wanted: &str) -> String {
    let kind = match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    format!("json: cannot unmarshal {kind} into Go {wanted}")
}

/// Hex bytes; `wanted` is Geth's name of the type.
pub(super) fn bytes(value: &Value, wanted: &str) -> Result<Vec<u8>, String> {
    let fault = |what: &str| format!("json: cannot unmarshal {what} into Go value of type {wanted}");
    let text = value.as_str().ok_or_else(|| fault("non-string"))?;
    let digits = text.strip_prefix("0x").ok_or_else(|| fault("hex string without 0x prefix"))?;
    if digits.len() % 2 == 1 {
        return Err(fault("hex string of odd length"));
    }
    hex::decode(digits).map_err(|_| fault("invalid hex string"))
}

pub(super) fn hash(value: &Value) -> Result<B256, String> {
    let raw = bytes(value, "common.Hash")?;
    B256::try_from(raw.as_slice())
        .map_err(|_| format!("hex string has length {}, want 64 for common.Hash", 2 * raw.len()))
}

pub(super) fn address(value: &Value) -> Result<Address, String> {
    let raw = bytes(value, "common.Address")?;
    Address::try_from(raw.as_slice())
        .map_err(|_| format!("hex string has length {}, want 40 for common.Address", 2 * raw.len()))
}

pub(super) fn quantity(value: &Value) -> Result<u64, String> {
    let digits = value.as_str().and_then(|text| text.strip_prefix("0x")).ok_or("hex string without 0x prefix")?;
    u64::from_str_radix(digits, 16).map_err(|_| "invalid hex string or hex number > 64 bits".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(text: &str) -> Args {
        Args::parse(Some(text)).expect("a list")
    }

    #[test]
    fn missing_and_malformed_values_are_named_by_place() {
        assert_eq!(Args::parse(Some("{}")).unwrap_err().message, "non-array args");
        assert_eq!(args("[]").hash(0).unwrap_err().message, "missing value for required argument 0");
        assert_eq!(
            args(r#"["0x12"]"#).hash(0).unwrap_err().message,
            "invalid argument 0: hex string has length 2, want 64 for common.Hash"
        );
        assert_eq!(
            args(r#"[null, "zz"]"#).quantity(1).unwrap_err().message,
            "invalid argument 1: hex string without 0x prefix"
        );
        assert_eq!(
            args("[7]").flag(0).unwrap_err().message,
            "invalid argument 0: json: cannot unmarshal number into Go value of type bool"
        );
        assert_eq!((args("[7]").count(0), args(r#"["0x7"]"#).count(0)), (Ok(7), Ok(7)));
    }
}
