#include "moe/model/device/step_plan.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <utility>

#include "moe/base/check.h"
#include "moe/base/status_macros.h"

namespace conclave {
namespace {

constexpr char kPart[] = "step tables";

uint64_t NextGeneration() {
  static std::atomic<uint64_t> last{0};
  return ++last;
}

}  // namespace

absl::StatusOr<StepPlan> StepPlan::Create(const TransformerOptions& options, DeviceMemory& memory) {
  StepPlan plan(options, memory);
  const int64_t rows = 5 * int64_t{options.rows_max} + (1 + kDrawIntegers) * options.logit_rows_max;
  // Of the smallest blocks that a cache may have.
  const int64_t sequence_blocks = options.context_max / kKvBlockTokens + 1;
  RETURN_IF_ERROR(plan.Grow(rows + std::max<int64_t>(2 * sequence_blocks, 16384) + kChangeIntegers * kDrawChangesMax));
  return plan;
}

absl::Status StepPlan::Grow(int64_t integers) {
  RETURN_IF_ERROR(memory_->accelerator().Synchronize());  // nobody reads the old ones
  const int64_t bytes = integers * int64_t{sizeof(int32_t)}, more = bytes - capacity_ * int64_t{sizeof(int32_t)};
  RETURN_IF_ERROR(memory_->Reserve(kPart, more));
  // The old ones stay until the new ones are there: a step that fails here leaves the next one what it had.
  absl::StatusOr<DeviceBuffer> host = memory_->AllocateHost(bytes), device = memory_->Allocate(bytes);
  if (!host.ok() || !device.ok()) {
    memory_->Release(kPart, more);
    return host.ok() ? device.status() : host.status();
  }
  host_ = *std::move(host);
  device_ = *std::move(device);
  capacity_ = integers;
  generation_ = NextGeneration();
  return absl::OkStatus();
}

void StepPlan::SetCache(const void* cache) {
  if (std::exchange(cache_, cache) != cache) generation_ = NextGeneration();
}

absl::Status StepPlan::Set(absl::Span<const SequenceSlice> slices, const ModelSpec& spec, int block_tokens) {
  int64_t rows = 0, logits = 0, blocks = 0, changes = 0;
  for (const SequenceSlice& slice : slices) {
    const int64_t count = static_cast<int64_t>(slice.token_ids.size());
    CheckSlice(slice, options_.context_max, block_tokens);
    rows += count;
    logits += slice.logit_rows;
    blocks += static_cast<int64_t>(slice.blocks.size());
    changes += static_cast<int64_t>(slice.changes.size());
  }
  CONCLAVE_CHECK(rows >= 1 && rows <= options_.rows_max) << rows << " rows";
  CONCLAVE_CHECK(logits <= options_.logit_rows_max && changes <= kDrawChangesMax) << logits << ", " << changes;
  const int64_t first_block = 5 * rows + (1 + kDrawIntegers) * logits, first_change = first_block + blocks;
  const int64_t needed = first_change + kChangeIntegers * changes;
  if (needed > capacity_) RETURN_IF_ERROR(Grow(std::max(needed, 2 * capacity_)));
  rows_ = rows;
  logit_count_ = logits;
  tokens_max_ = 0;
  int32_t* const base = host_.as<int32_t>();
  int32_t* logit = base + 5 * rows;
  int32_t* const block_begin = base + first_block;
  int32_t* block = block_begin;
  int64_t row = 0;
  for (const SequenceSlice& slice : slices) {
    const int64_t count = static_cast<int64_t>(slice.token_ids.size());
    for (int64_t i = 0; i < count; ++i, ++row) {
      const int64_t position = slice.first_position + i;
      CONCLAVE_CHECK(slice.token_ids[i] >= 0 && slice.token_ids[i] < spec.vocab) << slice.token_ids[i];
      if (i >= count - slice.logit_rows) *logit++ = static_cast<int32_t>(row);
      base[row] = slice.token_ids[i];
      base[rows + row] = static_cast<int32_t>(position);
      base[2 * rows + row] = static_cast<int32_t>(int64_t{slice.blocks[position / block_tokens]} * block_tokens +
                                                  position % block_tokens);
      base[3 * rows + row] = static_cast<int32_t>(block - block_begin);
      base[4 * rows + row] = static_cast<int32_t>(position + 1);
    }
    tokens_max_ = std::max(tokens_max_, slice.first_position + static_cast<int32_t>(count));
    block = std::copy(slice.blocks.begin(), slice.blocks.end(), block);
  }
  ListDraws(slices, first_change, spec.vocab);
  memory_->accelerator().CopyIn(device_.as<void>(), base, needed * int64_t{sizeof(int32_t)});
  return absl::OkStatus();
}

void StepPlan::ListDraws(absl::Span<const SequenceSlice> slices, int64_t first_change, int32_t vocab) {
  int32_t* const base = host_.as<int32_t>();
  TokenDraw* row = host_draws();
  logprob_words_ = 0;
  const auto ask = [&](int32_t top_logprobs) {
    row->top_logprobs = -1;
    if (top_logprobs < 0) return;
    row->top_logprobs = std::min({top_logprobs, kTopLogprobsMax, vocab});
    row->first_word = static_cast<int32_t>(logprob_words_);
    logprob_words_ += kDrawnLogitsWords + row->top_logprobs;
  };
  for (const SequenceSlice& slice : slices) {
    TokenDraw* const rows_end = row + slice.logit_rows;
    for (const int32_t id : slice.given) {
      CONCLAVE_CHECK(id >= 0 && id < vocab) << id;
      *row = TokenDraw{.given = id};
      ask(slice.given_top_logprobs);
      ++row;
    }
    if (slice.draw.has_value()) {
      *row = *slice.draw;
      row->changes = static_cast<int32_t>(slice.changes.size());
      row->first_change = static_cast<int32_t>(first_change);
      const size_t bytes = slice.changes.size() * sizeof(LogitChange);
      if (bytes > 0) std::memcpy(base + first_change, slice.changes.data(), bytes);
      first_change += kChangeIntegers * row->changes;
      ask(slice.draw->top_logprobs);
      ++row;
    }
    row = std::fill_n(row, rows_end - row, TokenDraw{});
  }
}

}  // namespace conclave
