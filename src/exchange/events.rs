//! The relay's stream: events in, events out.

use bytes::Bytes;

use super::{
    alike::sole_text,
    output::Output,
    relay::{Counts, Mode, Relay, too_deep},
};
use crate::{
    completion::{Completion, Compliance, Shape, tell_native},
    depth::is_too_deep,
    dialect::{Step, Tap},
    error::Error,
    wire::{Form, Frame},
};

impl Relay {
    pub(super) fn push_events(&mut self, input: Bytes) -> Bytes {
        let mut out = Output::new(input.clone());
        if let Mode::Stream(frames) = &mut self.mode {
            frames.push(input);
        }
        while let Some(frame) = self.next_event() {
            if let Err(error) = frame.and_then(|frame| self.relay_event(&frame, &mut out)) {
                let error = self.fail_with(error);
                out.buffer().extend(error.event());
            }
            if self.failure.is_some() || self.partial.done {
                break;
            }
        }
        out.into_bytes()
    }

    fn next_event(&mut self) -> Option<Result<Frame, Error>> {
        match &mut self.mode {
            Mode::Stream(frames) => frames.next(),
            Mode::Whole(..) | Mode::Error(..) => None,
        }
    }

    fn relay_event(&mut self, frame: &Frame, out: &mut Output) -> Result<(), Error> {
        if is_too_deep(&frame.data) {
            return Err(too_deep());
        }
        if self.edits.is_some() {
            return self.translate_event(frame, out);
        }
        match self.dialect.tap(frame, &mut self.partial) {
            Tap::Counted { .. } if self.wishes.counts != Counts::Running => {
                self.translate_event(frame, out)?;
            }
            Tap::Pass { finished } | Tap::Counted { finished } => {
                self.pass(frame, finished, out);
            }
            Tap::Usage if self.wishes.counts != Counts::None => {
                self.partial.usage_told = true;
                self.pass(frame, 0, out);
            }
            Tap::Usage => {}
            Tap::Done => self.complete(out)?,
            Tap::Translate => self.translate_event(frame, out)?,
        }
        Ok(())
    }

    fn read_rest(&mut self, frame: &Frame, out: &mut Output) -> Result<(), Error> {
        if is_too_deep(&frame.data) {
            return Err(too_deep());
        }
        self.translate_event(frame, out)
    }

    fn translate_event(&mut self, frame: &Frame, out: &mut Output) -> Result<(), Error> {
        if let Some(write) = self.alike.write(frame) {
            write(out.buffer());
            return Ok(());
        }
        self.alike.forget();
        match self.dialect.read_frame(frame, &mut self.partial)? {
            Step::Chunk(chunk) => {
                let text = sole_text(&chunk).filter(|_| self.tells_alike());
                let start = out.buffer().len();
                self.write(chunk, out)?;
                if let (Some(text), Some(written)) = (text, out.buffer().get(start..)) {
                    self.alike.learn(frame, text, written);
                }
            }
            Step::Last(chunk) => {
                self.write(chunk, out)?;
                self.complete(out)?;
            }
            Step::Done => self.complete(out)?,
            Step::Skip => {}
            Step::Unknown => self.partial.unknown = self.partial.unknown.saturating_add(1),
        }
        Ok(())
    }

    /// Whether nothing hangs on which texts came before.
    fn tells_alike(&self) -> bool {
        let is_plain = self.edits.is_none() && self.wishes.counts != Counts::Running;
        let partial = &self.partial;
        is_plain
            && partial.shape == Shape::Text
            && !partial.logprobs.is_wanted()
            && self.dialect.tells_alike()
    }

    /// Passes an event on in the one form that every client parses.
    fn pass(&self, frame: &Frame, finished: u32, out: &mut Output) {
        let told = finished > 0 && self.wishes.compliance == Compliance::Loose;
        match frame.form {
            Form::Canonical if told => tell_native(&frame.raw, out.buffer()),
            Form::Canonical => out.pass(&frame.raw),
            Form::Comment => out.buffer().extend_from_slice(b":\n\n"),
            Form::Other | Form::Exception | Form::Error if told => {
                out.write_data(|buffer| tell_native(&frame.data, buffer));
            }
            Form::Other | Form::Exception | Form::Error => {
                out.write_data(|buffer| buffer.extend_from_slice(&frame.data));
            }
        }
    }

    /// Writes an event of what is left of it after the edits. Once all texts have ended here, nothing more is waited for.
    fn write(&mut self, mut chunk: Completion<'_>, out: &mut Output) -> Result<(), Error> {
        self.edit(&mut chunk)?;
        if !chunk.choices.is_empty() {
            self.write_event(&chunk, out.buffer());
        }
        if self.is_cut_short() && self.partial.finished.covers(self.wishes.choices) {
            // What was counted so far may be the prompt and the first token: Anthropic's first event tells these.
            self.partial.usage = None;
            return self.complete(out);
        }
        Ok(())
    }

    pub(super) fn write_event(&mut self, chunk: &Completion<'_>, out: &mut Vec<u8>) {
        if let Some(id) = &self.id {
            // A provider's own id would make several answers of one.
            self.partial.id.clone_from(id);
        }
        let how = self.wishes.compliance;
        match self.wishes.counts {
            Counts::Running => self.partial.write_counted_chunk(chunk, how, out),
            Counts::None | Counts::Final => self.partial.write_chunk(chunk, how, out),
        }
    }

    /// The upstream says that its stream is complete. It is not before each choice has told why it ended: something was lost.
    fn complete(&mut self, out: &mut Output) -> Result<(), Error> {
        if self.partial.done {
            return Ok(());
        }
        if !self.partial.finished.covers(self.wishes.choices) {
            return Err(cut());
        }
        self.partial.done = true;
        self.end_stream(out.buffer());
        Ok(())
    }

    /// The end itself is the finish of a stream whose API tells none.
    fn read_end(&mut self, out: &mut Output) -> Result<(), Error> {
        if let Some(end) = self.dialect.read_end(&mut self.partial) {
            self.write(end, out)?;
        }
        Ok(())
    }

    pub(super) fn end_stream(&self, out: &mut Vec<u8>) {
        if self.id.is_some() {
            // Other parts of the answer may be on their way.
            return;
        }
        if self.wishes.counts != Counts::None && !self.partial.usage_told {
            self.partial.write_usage(out);
        }
        self.partial.write_end(out);
        out.extend_from_slice(b"data: [DONE]\n\n");
    }

    pub(super) fn finish_events(&mut self) -> Bytes {
        let mut out = Output::new(Bytes::new());
        let rest = match &mut self.mode {
            Mode::Stream(frames) if self.failure.is_none() && !self.partial.done => frames.rest(),
            _ => return Bytes::new(),
        };
        // An event without its blank line counts if it is whole; half of one is a cut. Only reading it tells: a scan takes
        // a cut behind an inner brace for its end.
        let mut rest = rest.map_or(Ok(()), |frame| self.read_rest(&frame?, &mut out));
        if rest.is_ok() && self.partial.finished.is_empty() {
            rest = self.read_end(&mut out);
        }
        let end = match rest {
            Ok(()) if self.partial.done => return out.into_bytes(),
            Ok(()) => self.complete(&mut out),
            Err(error) => Err(error),
        };
        if let Err(error) = end {
            let error = self.fail_with(error);
            out.buffer().extend(error.event());
        }
        out.into_bytes()
    }
}

fn cut() -> Error {
    Error::broken("The provider's stream ended before it was complete.")
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::Value;

    use super::*;
    use crate::{
        completion::Partial,
        dialect::{Dialect, anthropic::ANTHROPIC, chat::CHAT, openai::OPENAI},
        exchange::{
            edits::{Plan, Role},
            relay::{Answer, Wishes},
        },
    };

    const WISHES: Wishes = Wishes {
        compliance: Compliance::Strict,
        counts: Counts::Final,
        choices: 1,
        max_event_bytes: 1 << 20,
    };

    /// The same text in three ways of streaming it: "one ENtwo END three".
    const OPENAI_STREAM: &str = concat!(
        ": hello\n\n",
        "data: {\"id\":\"c\",\"object\":\"text_completion\",\"created\":1,\"model\":\"m\",\"choices\":[{\"text\":\"one EN\",\"index\":0,\"logprobs\":null,\"finish_reason\":null}]}\n\n",
        "data: {\"id\":\"c\",\"object\":\"text_completion\",\"created\":1,\"model\":\"m\",\"choices\":[{\"text\":\"two é E\",\"index\":0,\"logprobs\":null,\"finish_reason\":null}]}\n\n",
        "data: {\"id\":\"c\",\"object\":\"text_completion\",\"created\":1,\"model\":\"m\",\"choices\":[{\"text\":\"ND thr\",\"index\":0,\"logprobs\":null,\"finish_reason\":null}]}\n\n",
        "data: {\"id\":\"c\",\"object\":\"text_completion\",\"created\":1,\"model\":\"m\",\"choices\":[{\"text\":\"ee\",\"index\":0,\"logprobs\":null,\"finish_reason\":\"length\"}]}\n\n",
        "data: {\"id\":\"c\",\"object\":\"text_completion\",\"created\":1,\"model\":\"m\",\"choices\":[],\"usage\":{\"prompt_tokens\":1,\"completion_tokens\":4,\"total_tokens\":5}}\n\n",
        "data: [DONE]\n\n",
    );
    const CHAT_STREAM: &str = concat!(
        "data: {\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\"}}]}\n\n",
        "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"one EN\"}}]}\r\n\r\n",
        "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"two é E\"}}]}\n\n",
        "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"ND three\"}}]}\n\n",
        "data: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"length\"}]}\n\n",
        "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":1,\"completion_tokens\":4,\"total_tokens\":5}}\n\n",
        "data: [DONE]\n\n",
    );
    const ANTHROPIC_STREAM: &str = concat!(
        "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"id\":\"m\",\"model\":\"c\",\"usage\":{\"input_tokens\":1,\"output_tokens\":1}}}\n\n",
        "event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":0,\"delta\":{\"type\":\"text_delta\",\"text\":\"one ENtwo é E\"}}\n\n",
        "event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":0,\"delta\":{\"type\":\"text_delta\",\"text\":\"ND three\"}}\n\n",
        "event: message_delta\ndata: {\"type\":\"message_delta\",\"delta\":{\"stop_reason\":\"max_tokens\"},\"usage\":{\"output_tokens\":4}}\n\n",
        "event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n",
    );
    const STREAMS: [(&dyn Dialect, &str); 3] = [
        (&OPENAI, OPENAI_STREAM),
        (&CHAT, CHAT_STREAM),
        (&ANTHROPIC, ANTHROPIC_STREAM),
    ];
    const TEXT: &str = "one ENtwo é END three";

    fn relay(dialect: &'static dyn Dialect, plan: Plan) -> Relay {
        let seed = Partial {
            id: "cmpl-own".to_owned(),
            ..Partial::default()
        };
        Relay::new(dialect, seed, WISHES, Answer::Stream).with_edits(plan)
    }

    fn plan(stops: &[&str]) -> Plan {
        Plan {
            choices: 1,
            stops: stops.iter().map(|stop| (*stop).to_owned()).collect(),
            ..Plan::default()
        }
    }

    fn feed(mut relay: Relay, pieces: &[&[u8]]) -> String {
        let mut out = Vec::new();
        for piece in pieces {
            out.extend_from_slice(&relay.push(Bytes::copy_from_slice(piece)));
        }
        out.extend_from_slice(&relay.finish().unwrap());
        String::from_utf8(out).unwrap()
    }

    /// The text, and the reasons, of what a client got.
    fn read(out: &str) -> (String, Vec<String>) {
        let (mut text, mut reasons) = (String::new(), Vec::new());
        let data = out
            .split("\n\n")
            .filter_map(|event| event.strip_prefix("data: "));
        for event in data.filter(|data| *data != "[DONE]") {
            let event: Value = serde_json::from_str(event).unwrap();
            for choice in event["choices"].as_array().unwrap() {
                text += choice["text"].as_str().unwrap();
                reasons.extend(choice["finish_reason"].as_str().map(str::to_owned));
            }
        }
        (text, reasons)
    }

    #[test]
    fn at_every_cut_a_stream_ends_at_the_first_stop_sequence_and_only_there() {
        for (dialect, stream) in STREAMS {
            for stops in [
                &["END"][..],
                &["EN", "END"],
                &["nothing", " é E"],
                &["three", "wo é END th"],
                &["ee"],
                &["threed", ""],
            ] {
                let found = stops.iter().filter(|stop| !stop.is_empty());
                let stop = found.filter_map(|stop| TEXT.find(stop)).min();
                let wanted = match stop {
                    Some(at) => (TEXT[..at].to_owned(), vec!["stop".to_owned()]),
                    None => (TEXT.to_owned(), vec!["length".to_owned()]),
                };
                for cut in 0..=stream.len() {
                    let (first, second) = stream.as_bytes().split_at(cut);
                    let out = feed(relay(dialect, plan(stops)), &[first, second]);
                    assert_eq!(read(&out), wanted, "{} {stops:?} {cut}", dialect.name());
                    assert_eq!(out.matches("data: [DONE]\n\n").count(), 1);
                    assert!(out.ends_with("data: [DONE]\n\n"), "{out}");
                }
                let bytes: Vec<&[u8]> = stream.as_bytes().chunks(1).collect();
                assert_eq!(read(&feed(relay(dialect, plan(stops)), &bytes)), wanted);
            }
        }
    }

    // faults.md, row 14.
    #[test]
    fn an_event_of_an_unknown_kind_is_left_out_and_counted() {
        let new = "event: new_kind\ndata: {\"type\":\"new_kind\"}\n\n";
        let ping = "event: ping\ndata: {\"type\":\"ping\"}\n\n";
        let (first, rest) =
            ANTHROPIC_STREAM.split_at(ANTHROPIC_STREAM.find("event: content").unwrap());
        let stream = [first, new, ping, rest, new].concat();
        let told = |stream: &str| {
            let mut relay = Relay::new(&ANTHROPIC, Partial::default(), WISHES, Answer::Stream);
            let mut out = relay
                .push(Bytes::copy_from_slice(stream.as_bytes()))
                .to_vec();
            out.extend(relay.finish().unwrap());
            (out, relay.partial().unknown)
        };
        let (plain, none) = told(ANTHROPIC_STREAM);
        // What comes behind the end is not looked at.
        assert_eq!((none, told(&stream)), (0, (plain, 1)));
    }

    #[test]
    fn at_every_cut_the_prompt_comes_once_and_first() {
        for (dialect, stream) in STREAMS {
            for cut in 0..=stream.len() {
                let (first, second) = stream.as_bytes().split_at(cut);
                let plan = Plan {
                    echo: Some(Arc::from("an END ")),
                    ..plan(&["END"])
                };
                let out = feed(relay(dialect, plan), &[first, second]);
                let wanted = "an END one ENtwo é ".to_owned();
                assert_eq!(read(&out), (wanted, vec!["stop".to_owned()]), "{cut}");
            }
        }
    }

    #[test]
    fn at_every_cut_a_prompt_that_is_said_again_is_taken_off() {
        for (dialect, stream) in STREAMS {
            for (prompt, left) in [
                ("one ENtwo", " é "),
                ("one EN ", "two é "),
                ("one", " ENtwo é "),
                ("another", "one ENtwo é "),
            ] {
                for cut in 0..=stream.len() {
                    let (first, second) = stream.as_bytes().split_at(cut);
                    let plan = Plan {
                        repeated: Some(Arc::from(prompt)),
                        echo: Some(Arc::from("it: ")),
                        ..plan(&["END"])
                    };
                    let out = feed(relay(dialect, plan), &[first, second]);
                    let wanted = (format!("it: {left}"), vec!["stop".to_owned()]);
                    assert_eq!(read(&out), wanted, "{prompt} {cut}");
                }
            }
        }
    }

    #[test]
    fn a_stream_that_breaks_before_its_stop_sequence_is_no_complete_one() {
        for (dialect, stream) in STREAMS {
            let end = stream.find("ND thr").unwrap();
            for cut in 0..end {
                let mut relay = relay(dialect, plan(&["END"]));
                let mut out = relay
                    .push(Bytes::copy_from_slice(&stream.as_bytes()[..cut]))
                    .to_vec();
                out.extend_from_slice(&relay.finish().unwrap());
                let out = String::from_utf8(out).unwrap();
                assert!(
                    !out.contains("[DONE]") && out.contains("\"error\""),
                    "{cut}: {out}"
                );
            }
        }
    }

    #[test]
    fn a_part_has_the_answer_s_id_its_own_place_and_no_end() {
        for (dialect, stream) in STREAMS {
            let part = Plan {
                shift: 5,
                role: Role::Part,
                ..plan(&[])
            };
            let out = feed(relay(dialect, part), &[stream.as_bytes()]);
            assert_eq!(read(&out), (TEXT.to_owned(), vec!["length".to_owned()]));
            assert!(!out.contains("[DONE]") && !out.contains("usage"), "{out}");
            let events: Vec<&str> = out.split_terminator("\n\n").collect();
            assert!(
                events
                    .iter()
                    .all(|event| event.contains("\"cmpl-own\"") && event.contains("\"index\":5"))
            );
        }
    }

    #[test]
    fn a_stream_that_is_ended_here_tells_no_counts_of_its_start_alone() {
        for (dialect, stream) in STREAMS {
            let mut relay = relay(dialect, plan(&["END"]));
            let out = relay.push(Bytes::copy_from_slice(stream.as_bytes()));
            let out = std::str::from_utf8(&out).unwrap();
            assert!(
                out.ends_with("[DONE]\n\n") && !out.contains("usage"),
                "{out}"
            );
            assert_eq!(relay.partial().usage, None, "{}", dialect.name());
        }
    }

    #[test]
    fn running_counts_stand_beside_edited_choices_too() {
        let event = "data: {\"choices\":[{\"text\":\"a\",\"index\":0,\"finish_reason\":null}],\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":1,\"total_tokens\":4}}\n\n";
        for (counts, told) in [(Counts::Running, true), (Counts::Final, false)] {
            let mut relay = relay(&OPENAI, plan(&["END"]));
            relay.wishes.counts = counts;
            let out = relay.push(Bytes::from_static(event.as_bytes()));
            let out = std::str::from_utf8(&out).unwrap();
            assert_eq!(out.contains("\"total_tokens\":4"), told, "{out}");
        }
    }

    #[test]
    fn in_whatever_order_the_parts_come_their_choices_are_the_same() {
        let mut random = fastrand::Rng::with_seed(11);
        for _ in 0..300 {
            let mut parts: Vec<(Relay, &[u8])> = (0..5)
                .map(|at: u32| {
                    let (dialect, stream) = STREAMS[at as usize % STREAMS.len()];
                    let part = Plan {
                        shift: at,
                        echo: Some(Arc::from(format!("{at}:"))),
                        role: Role::Part,
                        ..plan(&["END"])
                    };
                    (relay(dialect, part), stream.as_bytes())
                })
                .collect();
            let mut out = Vec::new();
            while parts.iter().any(|(_, rest)| !rest.is_empty()) {
                let at = random.usize(..parts.len());
                let (relay, rest) = &mut parts[at];
                let (piece, after) = rest.split_at(random.usize(0..=rest.len().min(90)));
                *rest = after;
                out.extend_from_slice(&relay.push(Bytes::copy_from_slice(piece)));
            }
            let mut texts = vec![String::new(); 5];
            for event in String::from_utf8(out).unwrap().split_terminator("\n\n") {
                let event: Value =
                    serde_json::from_str(event.strip_prefix("data: ").unwrap()).unwrap();
                let choice = &event["choices"][0];
                texts[choice["index"].as_u64().unwrap() as usize] +=
                    choice["text"].as_str().unwrap();
            }
            let wanted: Vec<_> = (0..5).map(|at| format!("{at}:one ENtwo é ")).collect();
            assert_eq!(texts, wanted);
        }
    }
}
