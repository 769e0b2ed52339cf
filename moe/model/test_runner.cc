#include "moe/model/test_runner.h"

#include <algorithm>
#include <cstring>

#include "absl/memory/memory.h"
#include "gtest/gtest.h"
#include "moe/base/status_macros.h"
#include "moe/model/numeric_profile.h"
#include "moe/tensor/buffer.h"

namespace conclave {

void RoutingLog::OnRouting(LayerId layer, const Routing& routing) {
  std::vector<int32_t>& ids = experts[Value(layer)];
  ids.insert(ids.end(), routing.experts.begin(), routing.experts.end());
  std::vector<float>& values = weights[Value(layer)];
  values.insert(values.end(), routing.weights.begin(), routing.weights.end());
}

const Kernels& Fastest(Compute compute) { return **CpuKernels(compute, ""); }

std::vector<int32_t> Prompt(int length, int seed, int vocab) {
  std::vector<int32_t> ids(length);
  for (int i = 0; i < length; ++i) ids[i] = (i * i * 7 + i * 31 + seed * 17 + 3) % vocab;
  return ids;
}

void ExpectSameBits(const Logits& got, const Logits& want, const std::string& what) {
  ASSERT_EQ(got.size(), want.size()) << what;
  for (size_t row = 0; row < got.size(); ++row) {
    ASSERT_EQ(got[row].size(), want[row].size());
    EXPECT_EQ(std::memcmp(got[row].data(), want[row].data(), got[row].size() * sizeof(float)), 0)
        << what << ", row " << row;
  }
}

std::unique_ptr<TestRunner> TestRunner::Make(const std::string& directory, const Kernels& kernels, int threads) {
  auto runner = Create(directory, kernels, threads);
  EXPECT_TRUE(runner.ok()) << runner.status();
  return runner.ok() ? *std::move(runner) : nullptr;
}

absl::StatusOr<std::unique_ptr<TestRunner>> TestRunner::Create(const std::string& directory, const Kernels& kernels,
                                                               int threads, int rows_max, int context) {
  auto runner = absl::WrapUnique(new TestRunner);
  ASSIGN_OR_RETURN(runner->checkpoint_, Checkpoint::Open(directory));
  runner->threads_ = std::make_unique<ThreadPool>(threads);
  ASSIGN_OR_RETURN(runner->transformer_, Transformer::Create(*runner->checkpoint_, kernels, *runner->threads_,
                                                             {.rows_max = rows_max, .logit_rows_max = rows_max}));
  ASSIGN_OR_RETURN(runner->experts_, LocalExperts::Create(*runner->checkpoint_, kernels, *runner->threads_, rows_max));
  RETURN_IF_ERROR(runner->NewCache(CacheDType(kernels.compute), context));
  return runner;
}

absl::StatusOr<std::unique_ptr<TestRunner>> TestRunner::Create(const std::string& directory, ComputeTarget& target,
                                                               int threads, int rows_max, int context) {
  auto runner = absl::WrapUnique(new TestRunner);
  ASSIGN_OR_RETURN(runner->checkpoint_, Checkpoint::Open(directory));
  runner->threads_ = std::make_unique<ThreadPool>(threads);
  ASSIGN_OR_RETURN(runner->experts_, target.MakeLocalExperts(*runner->checkpoint_, *runner->threads_, rows_max));
  const TransformerOptions options{.rows_max = rows_max, .logit_rows_max = rows_max};
  ASSIGN_OR_RETURN(runner->transformer_, target.MakeTransformer(*runner->checkpoint_, *runner->threads_,
                                                                runner->experts_.get(), options));
  RETURN_IF_ERROR(runner->NewCache(target.cache_dtype(runner->spec()), context));
  return runner;
}

absl::Status TestRunner::NewCache(DType dtype, int context, int block_tokens) {
  const int blocks = (context + block_tokens - 1) / block_tokens;
  ASSIGN_OR_RETURN(kv_, transformer_->NewCache(spec(), dtype, blocks * kSequencesMax, block_tokens));
  positions_.assign(kSequencesMax, 0);
  blocks_.assign(kSequencesMax, {});
  for (int i = 0; i < blocks; ++i) {  // no two blocks of a sequence are neighbours
    for (int sequence = 0; sequence < kSequencesMax; ++sequence) {
      blocks_[sequence].push_back((blocks - 1 - i) * kSequencesMax + sequence);
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<Logits> TestRunner::Step(const std::vector<TestSlice>& slices, ForwardObserver* observer) {
  std::vector<SequenceSlice> views;
  int64_t rows = 0;
  for (const TestSlice& slice : slices) {
    SequenceSlice view;
    view.token_ids = slice.ids;
    view.first_position = positions_[slice.sequence];
    view.logit_rows = static_cast<int32_t>(slice.ids.size());
    const size_t tokens = view.first_position + slice.ids.size();
    const size_t block = kv_->block_tokens();
    view.blocks = absl::MakeConstSpan(blocks_[slice.sequence]).first((tokens + block - 1) / block);
    views.push_back(view);
    rows += view.logit_rows;
  }
  MatBuffer logits(DType::kF32, rows, spec().vocab);
  RETURN_IF_ERROR(transformer_->Forward(views, *kv_, *experts_, logits.view(), observer));
  for (const TestSlice& slice : slices) positions_[slice.sequence] += static_cast<int32_t>(slice.ids.size());
  Logits out;
  for (int64_t row = 0; row < rows; ++row) {
    const float* values = logits.view().Row<float>(row);
    out.emplace_back(values, values + spec().vocab);
  }
  return out;
}

absl::StatusOr<Logits> TestRunner::Prefill(int sequence, absl::Span<const int32_t> ids, int chunk,
                                           ForwardObserver* observer) {
  Logits out;
  for (size_t begin = 0; begin < ids.size(); begin += chunk) {
    const absl::Span<const int32_t> piece = ids.subspan(begin, chunk);
    ASSIGN_OR_RETURN(auto logits, Step({{sequence, {piece.begin(), piece.end()}}}, observer));
    out.insert(out.end(), logits.begin(), logits.end());
  }
  return out;
}

}  // namespace conclave
