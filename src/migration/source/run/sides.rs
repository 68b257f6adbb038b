//! Memory over the channels beside the main one (`multifd`).

use tokio::time::Instant;

use super::back::judged;
use super::{RAM_ID, Run, no_line};
use crate::migration::parameters::ZeroPageDetection;
use crate::migration::ram::PAGE;
use crate::migration::ram::multifd::PACKET_PAGES;
use crate::migration::source::Memory;
use crate::migration::source::multifd::SideChannels;
use crate::migration::source::pace::Pace;
use crate::migration::status::ErrorDesc;
use crate::migration::stream::{self, Record};

impl Run {
    /// Give the next pages to a channel beside the main one; false if none were left.
    pub(super) async fn packet(
        &mut self,
        out: &mut Vec<u8>,
        memory: &mut dyn Memory,
    ) -> Result<bool, ErrorDesc> {
        while self.sides.as_ref().is_some_and(|sides| !sides.has_room()) {
            self.side_progress(memory).await?;
        }
        let rate = self.rate();
        let bytes = self.count_sides(memory);
        let line = self.line.as_mut().ok_or_else(no_line)?;
        if let Some(at) = line.pace.admit(bytes, rate) {
            self.wait_until(at, memory).await;
        }
        let saver = memory.saver().ok_or_else(no_line)?;
        let most = Pace::chunk(rate, PACKET_PAGES * PAGE) / PAGE;
        let Some(mut batch) = saver.next_batch(most.max(1)) else { return Ok(false) };
        let legacy = self.settings.parameters.zero_page_detection == ZeroPageDetection::Legacy;
        if legacy && self.mapped.is_none() {
            out.clear();
            stream::put_piece_head(out, Record::SectionPart, RAM_ID);
            let head = out.len();
            let found = saver.put_zeroes(&mut batch, out);
            found.map_err(|error| ErrorDesc::from(error.to_string()))?;
            if out.len() > head {
                memory.end_piece(out);
                stream::put_footer(out, RAM_ID);
                self.send(out, memory).await?;
            }
        }
        if !batch.offsets.is_empty()
            && let Some(sides) = &mut self.sides
        {
            sides.send(batch);
        }
        Ok(true)
    }

    /// Wait for the channels beside the main one to have sent something; the figures go on being
    /// told.
    async fn side_progress(&mut self, memory: &dyn Memory) -> Result<(), ErrorDesc> {
        loop {
            let tick = self.next_tick();
            let sides = self.sides.as_mut().ok_or_else(no_line)?;
            let line = self.line.as_mut().ok_or_else(no_line)?;
            let heard = async {
                match &mut line.back {
                    Some(back) => back.recv().await,
                    None => std::future::pending().await,
                }
            };
            let progress = tokio::select! {
                biased;
                progress = sides.progress() => Some(progress),
                heard = heard => {
                    line.early.push_back(judged(heard)?);
                    None
                }
                () = tokio::time::sleep_until(tick) => None,
            };
            if Instant::now() >= tick {
                self.tick(memory);
            }
            match progress {
                Some(Ok(())) => return Ok(()),
                Some(Err(reason)) => return Err(self.cause(reason.as_str()).await),
                None => {}
            }
        }
    }

    /// Wait for the channels beside the main one to have done everything they were given.
    async fn sides_idle(&mut self, memory: &dyn Memory) -> Result<(), ErrorDesc> {
        while self.sides.as_ref().is_some_and(SideChannels::is_busy) {
            self.side_progress(memory).await?;
        }
        Ok(())
    }

    /// Take what those channels have sent into the figures; the bytes.
    fn count_sides(&mut self, memory: &mut dyn Memory) -> usize {
        let Some(sides) = &mut self.sides else { return 0 };
        let (pages, bytes) = sides.take_sent();
        if let Some(saver) = memory.saver() {
            saver.count(pages.normal, pages.zero);
        }
        bytes
    }

    /// Have the destination wait until everything of the round has arrived over every channel.
    pub(super) async fn flush_sides(&mut self, memory: &mut dyn Memory) -> Result<(), ErrorDesc> {
        let Some(sides) = &mut self.sides else { return Ok(()) };
        sides.sync();
        self.sides_idle(memory).await?;
        let (bytes, rate) = (self.count_sides(memory), self.rate());
        if let Some(line) = &mut self.line {
            line.pace.admit(bytes, rate);
        }
        if self.mapped.is_some() {
            // Who reads the file reads it when it is whole.
            return Ok(());
        }
        let mut out = Vec::new();
        stream::put_piece_head(&mut out, Record::SectionPart, RAM_ID);
        memory.saver().ok_or_else(no_line)?.put_flush(&mut out);
        memory.end_piece(&mut out);
        stream::put_footer(&mut out, RAM_ID);
        self.send(&out, memory).await
    }

    /// Close the channels beside the main one, all of whose pages have been sent.
    pub(super) async fn end_sides(&mut self, memory: &mut dyn Memory) -> Result<(), ErrorDesc> {
        let Some(sides) = &mut self.sides else { return Ok(()) };
        sides.end();
        self.sides_idle(memory).await
    }
}
