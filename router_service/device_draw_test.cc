// An accelerator's draw against the sampler's, id by id. On a machine with a GPU CONCLAVE_TEST_DEVICE=cuda runs it there,
// else the host accelerator draws.
#include <gtest/gtest.h>

#include <cstdlib>
#include <cstring>
#include <memory>
#include <random>
#include <vector>

#include "moe/kernels/accelerator/accelerator.h"
#include "moe/kernels/accelerator/host_accelerator.h"
#include "moe/kernels/accelerator/open_accelerator.h"
#include "moe/kernels/token_draw.h"
#include "router_service/sampler.h"

namespace conclave {
namespace {

std::unique_ptr<Accelerator> TestAccelerator() {
  const char* const device = std::getenv("CONCLAVE_TEST_DEVICE");
  if (device == nullptr) return HostAccelerator::Create(int64_t{1} << 30);
  auto opened = OpenAccelerator(device);
  EXPECT_TRUE(opened.ok()) << opened.status();
  return opened.ok() ? *std::move(opened) : nullptr;
}

// What one row asks for.
struct Row {
  std::vector<float> logits;
  SamplingParams params;
  TokenHistory history{{}, {}};
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
    return row;
  }

  // The ids that the device draws for `rows`, each behind `position` tokens.
  std::vector<int32_t> Drawn(Accelerator& device, const std::vector<Row>& rows, int64_t position) {
    const int64_t count = static_cast<int64_t>(rows.size()), vocab = static_cast<int64_t>(rows[0].logits.size());
    std::vector<TokenDraw> draws;
    std::vector<int32_t> tables;
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
    args.rows = count;
    args.cols = vocab;
    for (int64_t row = 0; row < count; ++row) device.CopyIn(args.x + row * vocab, rows[row].logits.data(), vocab * 4);
    device.CopyIn(const_cast<TokenDraw*>(args.draws), draws.data(), count * static_cast<int64_t>(sizeof(TokenDraw)));
    device.CopyIn(const_cast<int32_t*>(args.tables), tables.data(), static_cast<int64_t>(tables.size()) * 4);
    device.CopyIn(args.ids, poison.data(), count * 4);
    device.DrawTokens(args);
    std::vector<int32_t> ids(rows.size());
    device.CopyOut(ids.data(), args.ids, count * 4);
    EXPECT_TRUE(device.Synchronize().ok());
    for (const void* memory : {static_cast<const void*>(args.x), static_cast<const void*>(args.draws),
                               static_cast<const void*>(args.tables), static_cast<const void*>(args.ids)}) {
      device.Free(const_cast<void*>(memory));
    }
    return ids;
  }

  std::mt19937_64 random_{20};
};

TEST_F(DeviceDrawTest, TakesTheIdsThatTheSamplerTakes) {
  const auto device = TestAccelerator();
  ASSERT_NE(device, nullptr);
  for (const int vocab : {1, 7, 300, 5000, 32000, 129280}) {
    Sampler sampler(vocab);
    for (int64_t position = 1; position <= (vocab < 10000 ? 8 : 2); ++position) {
      std::vector<Row> rows;
      for (int i = 0; i < 40; ++i) rows.push_back(RandomRow(vocab));
      const std::vector<int32_t> drawn = Drawn(*device, rows, position);
      for (size_t i = 0; i < rows.size(); ++i) {
        const auto want = sampler.Sample(rows[i].logits, rows[i].params, position, &rows[i].history);
        ASSERT_TRUE(want.ok()) << want.status();
        EXPECT_EQ(drawn[i], *want) << "vocab " << vocab << ", row " << i << ": temperature "
                                   << rows[i].params.temperature << ", top_p " << rows[i].params.top_p << ", top_k "
                                   << rows[i].params.top_k << ", min_p " << rows[i].params.min_p;
      }
    }
  }
}

TEST_F(DeviceDrawTest, ARowWithALogitThatIsNotANumberHasNoId) {
  const auto device = TestAccelerator();
  ASSERT_NE(device, nullptr);
  std::vector<Row> rows;
  for (int i = 0; i < 8; ++i) rows.push_back(RandomRow(700));
  rows[2].logits[699] = NAN;
  rows[5].logits[0] = -INFINITY;
  rows[5].params.logit_bias = {{0, 1.0f}};
  rows[5].history = TokenHistory({0}, {0}, rows[5].params.logit_bias);
  const std::vector<int32_t> drawn = Drawn(*device, rows, 3);
  for (size_t i = 0; i < rows.size(); ++i) EXPECT_EQ(drawn[i] == -1, i == 2 || i == 5) << i;
}

}  // namespace
}  // namespace conclave
