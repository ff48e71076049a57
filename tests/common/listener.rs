//! A subscriber that keeps what it hears, for tests of the tracing.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::{Context, Layer};
use tracing_subscriber::registry::LookupSpan;

/// The fields of a span or an event, as text.
#[derive(Clone, Debug, Default)]
pub(crate) struct Fields(BTreeMap<&'static str, String>);

#[derive(Clone, Debug)]
pub(crate) struct Span {
    pub(crate) name: &'static str,
    fields: Fields,
}

#[derive(Clone, Debug)]
pub(crate) struct Told {
    pub(crate) level: Level,
    fields: Fields,
    /// The spans that it was told in, the innermost first.
    pub(crate) spans: Vec<Span>,
}

#[derive(Default)]
struct Heard {
    spans: Vec<Span>,
    events: Vec<Told>,
}

/// Everything that was told. Clones share it.
#[derive(Clone, Default)]
pub(crate) struct Listener(Arc<Mutex<Heard>>);

impl Fields {
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }
}

impl Span {
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.fields.get(name)
    }
}

impl Told {
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.fields.get(name)
    }

    pub(crate) fn says(&self, text: &str) -> bool {
        self.get("message").is_some_and(|message| message.contains(text))
    }
}

impl Listener {
    fn heard(&self) -> MutexGuard<'_, Heard> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The spans that have ended and have this id.
    pub(crate) fn spans_of(&self, id: &str) -> Vec<Span> {
        self.heard().spans.iter().filter(|span| span.get("id") == Some(id)).cloned().collect()
    }

    /// The spans that have ended and are called so.
    pub(crate) fn spans_called(&self, name: &str) -> Vec<Span> {
        self.heard().spans.iter().filter(|span| span.name == name).cloned().collect()
    }

    /// The events that say this.
    pub(crate) fn events(&self, text: &str) -> Vec<Told> {
        self.heard().events.iter().filter(|told| told.says(text)).cloned().collect()
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        self.0.insert(field.name(), format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.insert(field.name(), value.to_owned());
    }
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Listener {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let mut fields = Fields::default();
        attributes.record(&mut fields);
        if let Some(span) = context.span(id) {
            span.extensions_mut().insert(fields);
        }
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        if let Some(span) = context.span(id)
            && let Some(fields) = span.extensions_mut().get_mut::<Fields>()
        {
            values.record(fields);
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let around = context.event_scope(event).into_iter().flatten();
        let spans = around.map(|span| {
            let fields = span.extensions().get::<Fields>().cloned().unwrap_or_default();
            Span { name: span.name(), fields }
        });
        let told = Told { level: *event.metadata().level(), fields, spans: spans.collect() };
        self.heard().events.push(told);
    }

    fn on_close(&self, id: Id, context: Context<'_, S>) {
        if let Some(span) = context.span(&id) {
            let fields = span.extensions().get::<Fields>().cloned().unwrap_or_default();
            self.heard().spans.push(Span { name: span.name(), fields });
        }
    }
}
