// An accelerator's draw against the sampler's, id by id, and what it tells of logits against log probabilities of them,
// bit by bit. On a machine with a GPU CONCLAVE_TEST_DEVICE=cuda runs it there,
// else the host accelerator draws.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <random>
#include <set>
#include <vector>

#include "absl/types/span.h"
#include "moe/kernels/accelerator/accelerator.h"
#include "moe/kernels/accelerator/accelerator_testing.h"
#include "moe/kernels/token_draw.h"
#include "router_service/logprobs.h"
#include "router_service/sampler.h"

namespace conclave {
namespace {

// What one row asks for.
struct Row {
  std::vector<float> logits;
  SamplingParams params;
  TokenHistory history{{}, {}};
  int top_logprobs = -1;
  int32_t given = -1;
  std::vector<int32_t> forbidden;  // so by history
};

// What came of one.
struct Drawn {
  int32_t id = -7;
  TokenLogprobs logprobs;  // where asked
};

class DeviceDrawTest : public testing::Test {
 protected:
  // Logits of one of several shapes: normal, nearly flat, all equal, few different values, two far apart groups.
  std::vector<float> Logits(int vocab) {
    const int shape = static_cast<int>(random_() % 6);
    std::normal_distribution<float> normal(0, shape == 0 ? 1e-5f : shape == 1 ? 8.0f : 2.0f);
    std::vector<float> logits(vocab);
    for (float& logit : logits) {
      logit = shape == 2 ? 0.5f : normal(random_);
      if (shape == 3) logit = static_cast<float>(static_cast<int>(logit));
      if (shape == 4 && random_() % 2 == 0) logit -= 1e30f;
    }
    return logits;
  }

  template <typename T>
  T OneOf(std::vector<T> values) {
    return values[random_() % values.size()];
  }

  Row RandomRow(int vocab) {
    Row row{Logits(vocab), {.temperature = OneOf<float>({0.0f, 1e-6f, 0.3f, 0.8f, 1.0f, 5.0f, 3e38f})}};
    row.params.top_p = OneOf<float>({1.0f, 1.0f, 0.95f, 0.6f, 1e-6f});
    row.params.top_k = OneOf<int>({0, 0, 1, 2, 40, 5000, 1 << 30});
    row.params.min_p = OneOf<float>({0.0f, 0.0f, 1e-30f, 0.05f, 1.0f});
    row.params.seed = random_();
    std::vector<int32_t> seen, generated;
    if (random_() % 2 == 0) {
      row.params.repetition_penalty = OneOf<float>({1.0f, 1.2f, 0.7f});
      row.params.presence_penalty = OneOf<float>({0.0f, 0.6f});
      row.params.frequency_penalty = OneOf<float>({0.0f, -0.3f, 1.1f});
      for (int i = 0; i < 100; ++i) seen.push_back(static_cast<int32_t>(random_() % vocab));
      for (int i = 0; i < 2000; ++i) generated.push_back(static_cast<int32_t>(random_() % vocab));
    }
    for (int32_t id = 0; id < vocab && random_() % 3 != 0; id += 1 + static_cast<int32_t>(random_() % 100)) {
      row.params.logit_bias.emplace_back(id, OneOf<float>({3.5f, -100.0f}));
    }
    row.history = TokenHistory(seen, generated, row.params.logit_bias);
    if (random_() % 2 == 0) Forbid(row);
    return row;
  }

  // Some ids, and often the most likely ones of the logits as they are; one is left at least.
  void Forbid(Row& row) {
    const int vocab = static_cast<int>(row.logits.size());
    std::set<int32_t> ids;
    for (int i = 0; i < OneOf<int>({1, 3, 2000}); ++i) ids.insert(static_cast<int32_t>(random_() % vocab));
    if (random_() % 2 == 0) {
      const auto most_likely = std::max_element(row.logits.begin(), row.logits.end());
      ids.insert(static_cast<int32_t>(most_likely - row.logits.begin()));
    }
    if (static_cast<int>(ids.size()) == vocab) ids.erase(ids.begin());
    row.forbidden.assign(ids.begin(), ids.end());
    row.history.Forbid(row.forbidden);
  }

  // What the device draws for `rows`, each behind `position` tokens.
  std::vector<Drawn> Draw(Accelerator& device, const std::vector<Row>& rows, int64_t position) {
    const int64_t count = static_cast<int64_t>(rows.size()), vocab = static_cast<int64_t>(rows[0].logits.size());
    std::vector<TokenDraw> draws;
    std::vector<int32_t> tables;
    std::vector<uint64_t> words;
    for (const Row& row : rows) {
      TokenDraw& draw = draws.emplace_back();
      draw.temperature = row.params.temperature;
      draw.top_p = row.params.top_p;
      draw.min_p = row.params.min_p;
      draw.top_k = row.params.top_k;
      draw.uniform = UniformAt(row.params.seed, position, 0);
      draw.repetition_penalty = row.params.repetition_penalty;
      draw.presence_penalty = row.params.presence_penalty;
      draw.frequency_penalty = row.params.frequency_penalty;
      draw.top_logprobs = std::min(row.top_logprobs, static_cast<int>(vocab));
      draw.given = row.given;
      draw.first_word = static_cast<int32_t>(words.size());
      if (draw.top_logprobs >= 0) words.resize(words.size() + kDrawnLogitsWords + draw.top_logprobs, ~uint64_t{0} / 7);
      draw.first_change = static_cast<int32_t>(tables.size());
      draw.changes = static_cast<int32_t>(row.history.changes().size());
      tables.resize(tables.size() + 3 * row.history.changes().size());
      if (draw.changes == 0) continue;
      std::memcpy(&tables[draw.first_change], row.history.changes().data(), draw.changes * sizeof(LogitChange));
    }
    const std::vector<int32_t> poison(rows.size(), -7);
    DrawArgs args;
    args.x = static_cast<float*>(*device.Allocate(count * vocab * 4));
    args.draws = static_cast<TokenDraw*>(*device.Allocate(count * static_cast<int64_t>(sizeof(TokenDraw))));
    args.tables = static_cast<int32_t*>(*device.Allocate(static_cast<int64_t>(tables.size()) * 4));
    args.ids = static_cast<int32_t*>(*device.Allocate(count * 4));
    const int64_t words_bytes = static_cast<int64_t>(words.size()) * 8;
    args.words = static_cast<uint64_t*>(*device.Allocate(words_bytes));
    args.rows = count;
    args.cols = vocab;
    for (int64_t row = 0; row < count; ++row) device.CopyIn(args.x + row * vocab, rows[row].logits.data(), vocab * 4);
    device.CopyIn(const_cast<TokenDraw*>(args.draws), draws.data(), count * static_cast<int64_t>(sizeof(TokenDraw)));
    device.CopyIn(args.tables, tables.data(), static_cast<int64_t>(tables.size()) * 4);
    device.CopyIn(args.words, words.data(), words_bytes);
    device.CopyIn(args.ids, poison.data(), count * 4);
    device.DrawTokens(args);
    std::vector<int32_t> ids(rows.size());
    device.CopyOut(ids.data(), args.ids, count * 4);
    device.CopyOut(words.data(), args.words, words_bytes);
    EXPECT_TRUE(device.Synchronize().ok());
    for (const void* memory : {static_cast<const void*>(args.x), static_cast<const void*>(args.draws),
                               static_cast<const void*>(args.tables), static_cast<const void*>(args.ids),
                               static_cast<const void*>(args.words)}) {
      device.Free(const_cast<void*>(memory));
    }
    std::vector<Drawn> drawn(rows.size());
    for (size_t i = 0; i < rows.size(); ++i) {
      drawn[i].id = ids[i];
      if (draws[i].top_logprobs < 0) continue;
      const uint64_t* const told = words.data() + draws[i].first_word;
      const auto* const top = reinterpret_cast<const LikelyToken*>(told + kDrawnLogitsWords);
      drawn[i].logprobs = LogprobsOf(*reinterpret_cast<const DrawnLogits*>(told),
                                     absl::MakeConstSpan(top, draws[i].top_logprobs), ids[i]);
    }
    return drawn;
  }

  std::mt19937_64 random_{20};
};

TEST_F(DeviceDrawTest, TakesTheIdsThatTheSamplerTakes) {
  const auto device = TestAccelerator(std::getenv("CONCLAVE_TEST_DEVICE"));
  ASSERT_NE(device, nullptr);
  for (const int vocab : {1, 7, 300, 5000, 32000, 129280}) {
    Sampler sampler(vocab);
    for (int64_t position = 1; position <= (vocab < 10000 ? 8 : 2); ++position) {
      std::vector<Row> rows;
      for (int i = 0; i < 40; ++i) rows.push_back(RandomRow(vocab));
      const std::vector<Drawn> drawn = Draw(*device, rows, position);
      for (size_t i = 0; i < rows.size(); ++i) {
        const auto want = sampler.Sample(rows[i].logits, rows[i].params, position, &rows[i].history, rows[i].forbidden);
        ASSERT_TRUE(want.ok()) << want.status();
        EXPECT_EQ(drawn[i].id, *want) << "vocab " << vocab << ", row " << i << ": temperature "
                                   << rows[i].params.temperature << ", top_p " << rows[i].params.top_p << ", top_k "
                                   << rows[i].params.top_k << ", min_p " << rows[i].params.min_p;
      }
    }
  }
}

TEST_F(DeviceDrawTest, TellsTheLogProbabilitiesOfTheRowAsItWas) {
  const auto device = TestAccelerator(std::getenv("CONCLAVE_TEST_DEVICE"));
  ASSERT_NE(device, nullptr);
  for (const int vocab : {1, 7, 64, 1000, 32000, 129280}) {
    std::vector<Row> rows;
    for (int i = 0; i < (vocab < 10000 ? 60 : 16); ++i) {
      rows.push_back(RandomRow(vocab));
      rows.back().top_logprobs = OneOf<int>({-1, 0, 1, 5, 20, 64});
      if (i % 4 == 0) rows.back().given = static_cast<int32_t>(random_() % vocab);
      // Where many are changed, many of those that are drawn are.
      if (i % 3 != 0) continue;
      rows.back().params.logit_bias.clear();
      for (int32_t id = 0; id < std::min(vocab, 9000); ++id) rows.back().params.logit_bias.emplace_back(id, 0.25f);
      rows.back().history = TokenHistory({}, {}, rows.back().params.logit_bias);
      rows.back().params = {.temperature = 1.0f, .seed = random_()};
    }
    const std::vector<Drawn> drawn = Draw(*device, rows, 11);
    for (size_t i = 0; i < rows.size(); ++i) {
      if (rows[i].top_logprobs < 0) continue;
      ASSERT_GE(drawn[i].id, 0);
      if (rows[i].given >= 0) {
        EXPECT_EQ(drawn[i].id, rows[i].given);
      }
      const TokenLogprobs want = LogprobsOf(rows[i].logits, drawn[i].id, rows[i].top_logprobs);
      EXPECT_EQ(drawn[i].logprobs.logprob, want.logprob) << "vocab " << vocab << ", row " << i;
      EXPECT_EQ(drawn[i].logprobs.top, want.top) << "vocab " << vocab << ", row " << i << ", " << rows[i].top_logprobs;
    }
  }
}

TEST_F(DeviceDrawTest, ARowWithALogitThatIsNotANumberHasNoId) {
  const auto device = TestAccelerator(std::getenv("CONCLAVE_TEST_DEVICE"));
  ASSERT_NE(device, nullptr);
  std::vector<Row> rows;
  for (int i = 0; i < 8; ++i) rows.push_back(RandomRow(700));
  rows[2].logits[699] = NAN;
  rows[5].logits[0] = -INFINITY;
  rows[5].params.logit_bias = {{0, 1.0f}};
  rows[5].history = TokenHistory({0}, {0}, rows[5].params.logit_bias);
  rows[5].given = rows[6].given = 1;
  rows[7].logits[1] = NAN;
  rows[7].forbidden = {1};
  rows[7].history = TokenHistory({}, {});
  rows[7].history.Forbid(rows[7].forbidden);
  rows[2].top_logprobs = rows[3].top_logprobs = rows[5].top_logprobs = 5;
  const std::vector<Drawn> drawn = Draw(*device, rows, 3);
  for (size_t i = 0; i < rows.size(); ++i) EXPECT_EQ(drawn[i].id == -1, i == 2 || i == 5 || i == 7) << i;
  EXPECT_EQ(drawn[3].logprobs.top, LogprobsOf(rows[3].logits, drawn[3].id, 5).top);
}

}  // namespace
}  // namespace conclave
