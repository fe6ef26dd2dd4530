//! The relay's stream: events in, events out.

use bytes::Bytes;

use super::{
    output::Output,
    relay::{Counts, Mode, Relay, too_deep},
};
use crate::{
    completion::{Completion, Compliance, tell_native},
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
        match self.dialect.read_frame(frame, &mut self.partial)? {
            Step::Chunk(chunk) => self.write(chunk, out)?,
            Step::Last(chunk) => {
                self.write(chunk, out)?;
                self.complete(out)?;
            }
            Step::Done => self.complete(out)?,
            Step::Skip => {}
        }
        Ok(())
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
            return self.complete(out);
        }
        Ok(())
    }

    pub(super) fn write_event(&mut self, chunk: &Completion<'_>, out: &mut Vec<u8>) {
        if let Some(id) = &self.id {
            // A provider's own id would make several answers of one.
            self.partial.id.clone_from(id);
        }
        self.partial.write_chunk(chunk, self.wishes.compliance, out);
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
