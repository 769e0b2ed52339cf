#include "router_service/fake_transformer.h"

#include <algorithm>
#include <bit>
#include <limits>

#include "moe/base/check.h"
#include "moe/kernels/accelerator/host_ops.h"

namespace conclave {
namespace {

constexpr int kMoeLayer = 1;

uint64_t Mix(uint64_t state, uint64_t value) {
  state = (state ^ value) * 0x9E3779B97F4A7C15u;
  return state ^ (state >> 29);
}

// What the cache holds for one row: a normal float, whose bits tell token and position.
float Cached(int32_t token, int32_t position, int layer) {
  return std::bit_cast<float>(0x3f800000u | static_cast<uint32_t>(token * 4096 + position * 2 + layer));
}

void LogitsOf(uint64_t state, absl::Span<float> logits) {
  for (size_t id = 0; id < logits.size(); ++id) {
    logits[id] = static_cast<float>(Mix(state, id + 1) >> 40) * 0x1p-22f - 2.0f;
  }
  logits[kPoisonToken] = -1e6f;  // never sampled: it comes in prompts only
}

uint64_t Extend(uint64_t state, float first, float second) {
  return Mix(Mix(state, std::bit_cast<uint32_t>(first)), std::bit_cast<uint32_t>(second));
}

}  // namespace

ModelSpec FakeSpec() {
  ModelSpec spec;
  spec.vocab = 61;
  spec.hidden = 8;
  spec.layers = 2;
  spec.dense_layers_first = 1;
  spec.context_max = 96;
  spec.attention.kv_lora_rank = 2;
  spec.attention.qk_rope_head_dim = 2;
  spec.gate.experts = 5;
  spec.gate.top_k = 2;
  spec.eos_ids = {60};
  return spec;
}

std::vector<float> FakeLogits(absl::Span<const int32_t> tokens) {
  uint64_t state = 1;
  for (size_t i = 0; i < tokens.size(); ++i) {
    state = Extend(state, Cached(tokens[i], static_cast<int32_t>(i), 0), Cached(tokens[i], static_cast<int32_t>(i), 1));
  }
  std::vector<float> logits(FakeSpec().vocab);
  LogitsOf(state, absl::MakeSpan(logits));
  return logits;
}

std::array<int32_t, 2> FakeExperts(int32_t token, int32_t position) {
  const int32_t first = (token + position) % 4;
  return {first, first + 1 + token % (4 - first)};
}

int32_t FakeTransformer::Draw(const SequenceSlice& slice, size_t row) {
  const bool given = row < slice.given.size();
  TokenDraw draw = given ? TokenDraw{.top_logprobs = slice.given_top_logprobs, .given = slice.given[row]} : *slice.draw;
  draw.changes = given ? 0 : static_cast<int32_t>(slice.changes.size());
  int32_t id = -1;
  DrawArgs args;
  args.x = own_row_.data();
  args.draws = &draw;
  std::vector<LogitChange> changes(slice.changes.begin(), slice.changes.end());
  args.tables = reinterpret_cast<int32_t*>(changes.data());
  std::vector<uint64_t>& words = drawn_words_.emplace_back();
  draw.top_logprobs = std::min(draw.top_logprobs, static_cast<int32_t>(own_row_.size()));
  if (draw.top_logprobs >= 0) words.resize(kDrawnLogitsWords + draw.top_logprobs);
  args.words = words.data();
  args.ids = &id;
  args.rows = 1;
  args.cols = static_cast<int64_t>(own_row_.size());
  host_ops::DrawTokens(args);
  return id;
}

DrawnLogprobs FakeTransformer::drawn_logprobs(int64_t row) const {
  const std::vector<uint64_t>& words = drawn_words_[static_cast<size_t>(row)];
  return DrawnLogprobs::At(words.data(), static_cast<int32_t>(words.size()) - kDrawnLogitsWords);
}

absl::Status FakeTransformer::Forward(absl::Span<const SequenceSlice> slices, KvStorage& kv, ExpertPool&,
                                      MatView logits, ForwardObserver* observer) {
  int rows = 0;
  std::vector<int32_t> experts;
  std::vector<float> weights;
  for (const SequenceSlice& slice : slices) {
    for (size_t i = 0; i < slice.token_ids.size(); ++i, ++rows) {
      const int32_t position = slice.first_position + static_cast<int32_t>(i);
      CONCLAVE_CHECK(position < limits_.context_max);
      for (int layer = 0; layer < 2; ++layer) {
        const MatView block = kv.Block(LayerId{layer}, slice.blocks[position / kv.block_tokens()]);
        block.Row<float>(position % kv.block_tokens())[3] = Cached(slice.token_ids[i], position, layer);
      }
      for (int32_t expert : FakeExperts(slice.token_ids[i], position)) experts.push_back(expert);
      weights.insert(weights.end(), {position + 0.25f, position + 0.5f});
    }
  }
  CONCLAVE_CHECK(rows >= 1 && rows <= limits_.rows_max && logits.rows <= limits_.logit_rows_max);
  if (observer != nullptr) observer->OnRouting(LayerId{kMoeLayer}, {2, experts, weights});
  if (at_experts_ != nullptr) {
    if (const absl::Status status = at_experts_(slices); !status.ok()) return status;
  }
  int logit_row = 0;
  drawn_.clear();
  drawn_words_.clear();
  for (const SequenceSlice& slice : slices) {
    const int32_t count = static_cast<int32_t>(slice.token_ids.size());
    CONCLAVE_CHECK(slice.logit_rows >= 0 && slice.logit_rows <= count) << slice.logit_rows << " of " << count;
    uint64_t state = 1;
    for (int32_t position = 0; position < slice.first_position + count; ++position) {
      const auto cached = [&](int layer) {
        const MatView block = kv.Block(LayerId{layer}, slice.blocks[position / kv.block_tokens()]);
        return block.Row<float>(position % kv.block_tokens())[3];
      };
      state = Extend(state, cached(0), cached(1));
      if (position < slice.first_position + count - slice.logit_rows) continue;
      float* row = draws_ && slice.is_told() ? own_row_.data() : logits.Row<float>(logit_row);
      ++logit_row;
      LogitsOf(state, absl::MakeSpan(row, logits.cols));
      if (slice.token_ids[position - slice.first_position] == kPoisonToken) {
        row[7] = std::numeric_limits<float>::quiet_NaN();
      }
      if (!draws_) continue;
      const int32_t first = slice.first_position + count - slice.logit_rows;
      drawn_.push_back(slice.is_told() ? Draw(slice, static_cast<size_t>(position - first)) : -1);
      drawn_words_.resize(drawn_.size());
    }
  }
  CONCLAVE_CHECK(logit_row == logits.rows) << logit_row << " of " << logits.rows;
  return absl::OkStatus();
}

}  // namespace conclave
