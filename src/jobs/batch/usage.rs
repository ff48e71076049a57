//! What the workers of a batch use up, so that a context that is nearly full is cleared in time. It
//! counts, and stops nobody.

use serde_json::json;

use super::Batch;
use super::state::Usage;
use crate::error::Result;

/// Tokens after which a context is to be cleared, unless the batch says otherwise.
const CONTEXT_BUDGET: u64 = 150_000;

impl<T> Batch<T> {
    /// Adds tokens to what the batch has used, and returns what that is now. It is counted durably, over
    /// restarts, for all workers together. When the future is dropped they may be counted or not.
    ///
    /// ```
    /// # use fiefdom::{Store, Untyped, jobs::Batch};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> fiefdom::Result<()> {
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let store = Store::open(dir.path(), Untyped).await?;
    /// # let batch = Batch::create(&store, ["alpha", "beta"].map(String::from)).await?;
    /// let usage = batch.record_usage(1_200).await?;
    /// assert_eq!((usage.tokens, usage.context_tokens), (1_200, 1_200));
    /// # drop(batch);
    /// # store.shutdown().await }
    /// ```
    ///
    /// # Errors
    ///
    /// Those of [`InstanceRef`](crate::InstanceRef).
    pub async fn record_usage(&self, tokens: u64) -> Result<Usage> {
        let _slot = self.slot().await?;
        let count = move |usage: &mut Usage| {
            usage.tokens = usage.tokens.saturating_add(tokens);
            usage.context_tokens = usage.context_tokens.saturating_add(tokens);
            *usage
        };
        self.instance.update(move |state| count(&mut state.usage)).await
    }

    /// Whether the tokens since the last clear have reached the budget: 150 000, or
    /// [`BatchSettings::context_budget`](super::BatchSettings::context_budget).
    ///
    /// ```
    /// # use fiefdom::{Store, Untyped, jobs::Batch};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> fiefdom::Result<()> {
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let store = Store::open(dir.path(), Untyped).await?;
    /// # let batch = Batch::create(&store, ["alpha", "beta"].map(String::from)).await?;
    /// batch.record_usage(149_000).await?;
    /// assert!(!batch.should_clear_context().await?);
    ///
    /// batch.record_usage(2_000).await?;
    /// if batch.should_clear_context().await? {
    ///     // … begin the conversation with the model anew
    ///     batch.record_context_clear().await?;
    /// }
    /// let usage = batch.usage().await?;
    /// assert_eq!((usage.tokens, usage.context_tokens, usage.context_clears), (151_000, 0, 1));
    /// # drop(batch);
    /// # store.shutdown().await }
    /// ```
    ///
    /// # Errors
    ///
    /// Those of [`InstanceRef`](crate::InstanceRef).
    pub async fn should_clear_context(&self) -> Result<bool> {
        let budget = self.settings.context_budget.unwrap_or(CONTEXT_BUDGET);
        Ok(self.usage().await?.context_tokens >= budget)
    }

    /// Notes that the context was cleared: its tokens begin at 0 again. With the event
    /// `context.cleared`. The example is at [`Batch::should_clear_context`].
    ///
    /// # Errors
    ///
    /// Those of [`InstanceRef`](crate::InstanceRef).
    pub async fn record_context_clear(&self) -> Result<()> {
        let _slot = self.slot().await?;
        self.instance
            .commit(|tx| {
                let usage = &mut tx.state_mut().usage;
                let tokens = std::mem::take(&mut usage.context_tokens);
                usage.context_clears += 1;
                tx.event("context.cleared", &json!({ "tokens": tokens }))
            })
            .await
            .map(drop)
    }

    /// What the batch has used. The example is at [`Batch::should_clear_context`].
    ///
    /// # Errors
    ///
    /// Those of [`InstanceRef`](crate::InstanceRef).
    pub async fn usage(&self) -> Result<Usage> {
        self.instance.read(|state| state.usage).await
    }
}
