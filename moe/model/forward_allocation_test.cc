// A forward pass allocates nothing once it has run: every operator new of the process is counted, on every thread.
#include <gtest/gtest.h>

#include <atomic>
#include <cstdlib>
#include <memory>
#include <new>
#include <string>
#include <vector>

#include "absl/types/span.h"
#include "moe/base/thread_pool.h"
#include "moe/checkpoint/quantize.h"
#include "moe/kernels/kernels.h"
#include "moe/model/test_models.h"
#include "moe/model/test_runner.h"
#include "moe/model/transformer.h"
#include "moe/tensor/buffer.h"

namespace {

std::atomic<bool> counts{false};
std::atomic<int> allocations{0};

void* Allocate(std::size_t bytes, std::size_t alignment) {
  if (counts.load(std::memory_order_relaxed)) allocations.fetch_add(1, std::memory_order_relaxed);
  void* memory = nullptr;
  const std::size_t aligned = alignment < sizeof(void*) ? sizeof(void*) : alignment;
  if (posix_memalign(&memory, aligned, bytes == 0 ? 1 : bytes) != 0) std::abort();
  return memory;
}

}  // namespace

void* operator new(std::size_t bytes) { return Allocate(bytes, alignof(std::max_align_t)); }
void* operator new[](std::size_t bytes) { return Allocate(bytes, alignof(std::max_align_t)); }
void* operator new(std::size_t bytes, std::align_val_t alignment) {
  return Allocate(bytes, static_cast<std::size_t>(alignment));
}
void* operator new[](std::size_t bytes, std::align_val_t alignment) {
  return Allocate(bytes, static_cast<std::size_t>(alignment));
}
// Those that do not throw too: a sanitizer's own would be freed by ours.
void* operator new(std::size_t bytes, const std::nothrow_t&) noexcept {
  return Allocate(bytes, alignof(std::max_align_t));
}
void* operator new[](std::size_t bytes, const std::nothrow_t&) noexcept {
  return Allocate(bytes, alignof(std::max_align_t));
}
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete[](void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }
void operator delete[](void* memory, std::size_t) noexcept { std::free(memory); }
void operator delete(void* memory, std::align_val_t) noexcept { std::free(memory); }
void operator delete[](void* memory, std::align_val_t) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t, std::align_val_t) noexcept { std::free(memory); }
void operator delete[](void* memory, std::size_t, std::align_val_t) noexcept { std::free(memory); }

namespace conclave {
namespace {

// Allocations of three steps like one that has run before: three sequences that decode and one that prefills.
int AllocationsOfSteps(const std::string& model, Compute compute) {
  const auto runner = TestRunner::Make(model, Fastest(compute), 2);
  if (runner == nullptr) return -1;
  const std::vector<int32_t> ids = Prompt(24, 1, runner->spec().vocab);
  std::vector<std::vector<int32_t>> blocks(4);
  std::vector<SequenceSlice> slices(4);
  for (int i = 0; i < 4; ++i) {
    for (int block = 0; block < 4; ++block) blocks[i].push_back(i * 4 + block);
    const size_t rows = i == 3 ? ids.size() : 1;
    slices[i].token_ids = absl::MakeConstSpan(ids).first(rows);
    slices[i].first_position = 0;
    slices[i].blocks = blocks[i];
    slices[i].logit_rows = 1;
  }
  MatBuffer logits(DType::kF32, 4, runner->spec().vocab);
  const auto step = [&] {
    const absl::Status status =
        runner->transformer().Forward(slices, runner->kv(), runner->experts(), logits.view(), nullptr);
    EXPECT_TRUE(status.ok()) << status;
  };
  step();
  step();
  allocations = 0;
  counts = true;
  for (int i = 0; i < 3; ++i) step();
  counts = false;
  return allocations;
}

std::string Model() {
  auto model = MakeTestModel({}, "bf16");
  EXPECT_TRUE(model.ok()) << model.status();
  return *model;
}

TEST(ForwardAllocationTest, TheCounterCounts) {
  counts = true;
  std::make_unique<int>(1).reset();
  counts = false;
  EXPECT_GE(allocations, 1);
}

TEST(ForwardAllocationTest, AStepAllocatesNothing) {
  const std::string model = Model();
  for (const Compute compute : {Compute::kF32, Compute::kBF16}) {
    EXPECT_EQ(AllocationsOfSteps(model, compute), 0) << Name(compute);
  }
}

TEST(ForwardAllocationTest, NorDoesOneOfPackedWeights) {
  ThreadPool threads(1);
  QuantizeOptions options;
  options.model = Model();
  options.to = "int4";
  options.head = true;
  options.out = options.model + "-int4";
  const absl::Status status = QuantizeModel(
      options, threads, [](int64_t, int64_t) {}, [] { return false; });
  ASSERT_TRUE(status.ok()) << status;
  for (const Compute compute : {Compute::kBF16, Compute::kInt8}) {
    EXPECT_EQ(AllocationsOfSteps(options.out, compute), 0) << Name(compute);
  }
}

}  // namespace
}  // namespace conclave
