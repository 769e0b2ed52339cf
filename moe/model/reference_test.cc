// Compares the model with what Hugging Face transformers computed from the same bytes in float32. The reference
// models are large for a repository: the test finds them through CONCLAVE_SHARED_DIR and is skipped without it.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "gtest/gtest.h"
#include "moe/checkpoint/safetensors.h"
#include "moe/model/test_runner.h"

namespace conclave {
namespace {

constexpr const char* kModels[] = {"reference/tiny-deepseek-v2-bf16",
                                   "reference/tiny-deepseek-v2-lite-bf16",
                                   "reference/tiny-deepseek-v3-bf16",
                                   "reference/tiny-deepseek-v3-fp8",
                                   "reference/tiny-kimi-k2-bf16",
                                   "reference/tiny-moonlight-bf16",
                                   "demo-model"};

// reference.safetensors of one model.
class Reference {
 public:
  explicit Reference(const std::string& directory) {
    auto file = SafetensorsFile::Open(directory + "/reference.safetensors");
    EXPECT_TRUE(file.ok()) << file.status();
    if (file.ok()) file_ = *std::move(file);
  }
  std::vector<std::string> prompts() const {
    std::vector<std::string> names;
    for (const auto& [name, tensor] : file_->tensors()) {
      absl::string_view prompt = name;
      if (absl::ConsumeSuffix(&prompt, ".input_ids")) names.emplace_back(prompt);
    }
    std::sort(names.begin(), names.end());
    return names;
  }
  bool Has(const std::string& name) const { return file_->tensors().contains(name); }
  std::vector<float> Floats(const std::string& name) const {
    const SafetensorsTensor& tensor = file_->tensors().at(name);
    std::vector<float> values(tensor.bytes / SizeOf(tensor.dtype));
    for (size_t i = 0; i < values.size(); ++i) values[i] = LoadAsFloat(tensor.data, tensor.dtype, i);
    return values;
  }
  std::vector<int32_t> Ints(const std::string& name) const {
    const std::vector<float> floats = Floats(name);  // ids are far below 2^24, so exact
    return {floats.begin(), floats.end()};
  }

 private:
  std::unique_ptr<SafetensorsFile> file_;
};

struct Difference {
  double largest = 0;       // |got - want| over all logits
  double relative_rms = 0;  // |got - want| / |want|, the worst row
  int experts_changed = 0;  // (row, layer) pairs with another choice
};

void CompareRows(const std::vector<std::vector<float>>& got, const std::vector<float>& want, Difference& difference) {
  const size_t vocab = got.back().size();
  const size_t rows = want.size() / vocab;  // the prompt's last ones
  ASSERT_LE(rows, got.size());
  for (size_t row = 0; row < rows; ++row) {
    const std::vector<float>& have = got[got.size() - rows + row];
    double error = 0, norm = 0;
    for (size_t i = 0; i < vocab; ++i) {
      const double reference = want[row * vocab + i];
      ASSERT_FALSE(std::isnan(have[i]));
      error += (have[i] - reference) * (have[i] - reference);
      norm += reference * reference;
      difference.largest = std::max(difference.largest, std::fabs(have[i] - reference));
    }
    difference.relative_rms = std::max(difference.relative_rms, std::sqrt(error / norm));
  }
}

void CompareGates(const Reference& reference, const std::string& prompt, const RoutingLog& log, bool weights_too,
                  Difference& difference) {
  for (const auto& [layer, experts] : log.experts) {
    const std::string name = absl::StrCat(prompt, ".gate.", layer);
    if (!reference.Has(name + ".1")) continue;
    const std::vector<int32_t> want = reference.Ints(name + ".1");
    const std::vector<float> want_weights = reference.Floats(name + ".0");
    ASSERT_EQ(want.size(), experts.size());
    const size_t rows = reference.Ints(prompt + ".input_ids").size();
    const size_t top_k = want.size() / rows;
    for (size_t row = 0; row < rows; ++row) {
      std::map<int32_t, float> choice;
      for (size_t k = 0; k < top_k; ++k) choice[want[row * top_k + k]] = want_weights[row * top_k + k];
      bool equal = true;
      for (size_t k = 0; k < top_k; ++k) {
        const auto found = choice.find(experts[row * top_k + k]);
        equal &= found != choice.end();
        if (!equal || !weights_too) continue;
        EXPECT_NEAR(log.weights.at(layer)[row * top_k + k], found->second, 1e-4) << name;
      }
      difference.experts_changed += !equal;
    }
  }
}

// Greedy continuation of a sequence that has seen its prompt, whose last logits are given.
std::vector<int32_t> Greedy(TestRunner& runner, std::vector<float> logits, size_t count) {
  std::vector<int32_t> ids;
  while (true) {
    ids.push_back(static_cast<int32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin()));
    if (ids.size() == count) return ids;
    auto step = runner.Step({{0, {ids.back()}}});
    EXPECT_TRUE(step.ok()) << step.status();
    if (!step.ok()) return ids;
    logits = step->back();
  }
}

class ReferenceTest : public testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    const char* shared = std::getenv("CONCLAVE_SHARED_DIR");
    if (shared == nullptr) GTEST_SKIP() << "CONCLAVE_SHARED_DIR does not name the reference models";
    directory_ = absl::StrCat(shared, "/", GetParam());
  }

  Difference Compare(const Kernels& kernels, bool exact) {
    Difference difference;
    const Reference reference(directory_);
    auto runner = TestRunner::Create(directory_, kernels, 2);
    EXPECT_TRUE(runner.ok()) << runner.status();
    if (!runner.ok()) return difference;
    for (const std::string& prompt : reference.prompts()) {
      RoutingLog log;
      (*runner)->Restart(0);
      const std::vector<int32_t> ids = reference.Ints(prompt + ".input_ids");
      auto logits = (*runner)->Prefill(0, ids, 256, &log);
      EXPECT_TRUE(logits.ok()) << logits.status();
      if (!logits.ok()) return difference;
      CompareRows(*logits, reference.Floats(prompt + ".logits"), difference);
      CompareGates(reference, prompt, log, exact, difference);
      const std::vector<int32_t> greedy = reference.Ints(prompt + ".greedy");
      if (!exact) continue;
      EXPECT_EQ(Greedy(**runner, logits->back(), greedy.size()), greedy) << prompt;
    }
    std::printf("%s, %s %s: largest difference %.2e, relative rms %.2e, %d choices of experts differ\n", GetParam(),
                std::string(kernels.isa).c_str(), std::string(Name(kernels.compute)).c_str(), difference.largest,
                difference.relative_rms, difference.experts_changed);
    return difference;
  }

  std::string directory_;
};

TEST_P(ReferenceTest, Float32MatchesEveryLogitGateAndGreedyToken) {
  const absl::StatusOr<const Kernels*> kernels = CpuKernels(Compute::kF32, "");
  ASSERT_TRUE(kernels.ok()) << kernels.status();
  const Difference difference = Compare(**kernels, true);
  EXPECT_LE(difference.largest, 1e-3);
  EXPECT_EQ(difference.experts_changed, 0);
}

TEST_P(ReferenceTest, Bfloat16StaysWithinTwoPercentOfEveryRow) {
  const absl::StatusOr<const Kernels*> kernels = CpuKernels(Compute::kBF16, "");
  ASSERT_TRUE(kernels.ok()) << kernels.status();
  EXPECT_LE(Compare(**kernels, false).relative_rms, 2e-2);
}

INSTANTIATE_TEST_SUITE_P(Models, ReferenceTest, testing::ValuesIn(kModels), [](const auto& info) {
  std::string name = info.param;
  for (char& c : name) c = c == '/' || c == '-' ? '_' : c;
  return name;
});

}  // namespace
}  // namespace conclave
