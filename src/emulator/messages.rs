//! Writes messages of `application/vnd.amazon.eventstream`: <https://docs.aws.amazon.com/lexv2/latest/dg/event-stream-encoding.html>.
//! It shares nothing with the decoder, not even the checksum.

use serde_json::Value;

/// One message of JSON with its headers, all of them strings.
pub fn message(headers: &[(&str, &str)], payload: &Value) -> Vec<u8> {
    message_of(headers, payload.to_string().as_bytes())
}

/// The same of whatever bytes.
pub fn message_of(headers: &[(&str, &str)], payload: &[u8]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in headers {
        block.extend(u8::try_from(name.len()).unwrap_or_default().to_be_bytes());
        block.extend_from_slice(name.as_bytes());
        // Type 7: a string.
        block.push(7);
        block.extend(u16::try_from(value.len()).unwrap_or_default().to_be_bytes());
        block.extend_from_slice(value.as_bytes());
    }
    let length = |bytes: usize| u32::try_from(bytes).unwrap_or_default().to_be_bytes();
    let mut message = length(12 + block.len() + payload.len() + 4).to_vec();
    message.extend(length(block.len()));
    message.extend(crc32(&message).to_be_bytes());
    message.extend(block);
    message.extend_from_slice(payload);
    message.extend(crc32(&message).to_be_bytes());
    message
}

/// The CRC of gzip, bit by bit: a witness against the decoder's.
fn crc32(bytes: &[u8]) -> u32 {
    let rest = bytes.iter().fold(u32::MAX, |rest, &byte| {
        (0..8).fold(rest ^ u32::from(byte), |rest, _| {
            let carry = if rest & 1 == 1 { 0xEDB8_8320 } else { 0 };
            (rest >> 1) ^ carry
        })
    });
    !rest
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_message_is_one_of_the_vectors_of_the_sdks() {
        assert_eq!(crc32(b"123456789"), 0xCBF4_3926);
        let payload = json!({"InitialResponse": "sometext"});
        let headers = [
            (":message-type", "event"),
            (":event-type", "initial-response"),
            (":content-type", "text/json"),
        ];
        let bytes = message(&headers, &payload);
        // botocore's vector has a space behind the colon, which is a byte and two sums of difference.
        assert_eq!(bytes[..8], [0, 0, 0, 0x7D, 0, 0, 0, 0x4F]);
        assert_eq!(crc32(b"\0\0\0\x7E\0\0\0\x4F"), 0xC5A3_DDC6);
    }
}
