// Checks the bfloat16 grouped products, fast and plain, against float64 sums of the plain dots on fresh random inputs,
// then times them beside the copy bandwidth and the bfloat16 rate of the same run:
// bf16_grouped_ffn_bench [seed [check]]
#include <cmath>
#include <random>

#include "moe/kernels/cuda/bench_support.cuh"
#include "moe/kernels/cuda/grouped_ffn.h"
#include "moe/kernels/cuda/plain_grouped_ffn.h"

namespace conclave::cuda {
namespace {

struct Problem {
  Bf16GroupedGemm gemm;
  std::vector<int32_t> begins, counts;
};

Problem MakeProblem(const std::vector<int>& rows_of_expert, int features, int k, uint64_t seed) {
  Problem p;
  int capacity = 0;
  for (int rows : rows_of_expert) {
    p.begins.push_back(capacity);
    p.counts.push_back(rows);
    capacity += (rows + kRowAlignment - 1) / kRowAlignment * kRowAlignment;
  }
  const int experts = static_cast<int>(rows_of_expert.size());
  auto* x = Allocate<__nv_bfloat16>(int64_t{capacity} * k);
  auto* w = Allocate<__nv_bfloat16>(int64_t{experts} * features * k);
  auto* begins = Allocate<int32_t>(experts);
  auto* counts = Allocate<int32_t>(experts);
  FillBf16<<<1024, 256>>>(x, int64_t{capacity} * k, 1.7f, seed);
  FillBf16<<<1024, 256>>>(w, int64_t{experts} * features * k, 1.7f / std::sqrt(static_cast<float>(k)), seed + 1);
  Must(cudaMemcpy(begins, p.begins.data(), experts * 4, cudaMemcpyHostToDevice), "copy");
  Must(cudaMemcpy(counts, p.counts.data(), experts * 4, cudaMemcpyHostToDevice), "copy");
  p.gemm.x = {x, capacity, k};
  p.gemm.w = {w, experts, features, k};
  p.gemm.row_begins = begins;
  p.gemm.row_counts = counts;
  p.gemm.rows_per_expert = *std::max_element(rows_of_expert.begin(), rows_of_expert.end());
  return p;
}

void Free(const Problem& p) {
  for (const void* pointer : {p.gemm.x.data, p.gemm.w.data, static_cast<const void*>(p.gemm.row_begins),
                              static_cast<const void*>(p.gemm.row_counts)}) {
    cudaFree(const_cast<void*>(pointer));
  }
}

using Launch = absl::Status (*)(const Bf16GroupedGemm&, void*, void*);

// Every tile width of `launch` and the plain loops against `want` [capacity, columns]; rows of no expert stay poisoned.
void Compare(Problem& p, const char* what, Launch launch, Launch plain, int columns, const std::vector<float>& want) {
  const int64_t count = int64_t{p.gemm.x.rows_capacity} * columns;
  auto* out = Allocate<uint16_t>(count);
  std::vector<uint16_t> first;
  for (int width : {1, 16, 32, 64, 128, 512, 0}) {  // 0: the plain loops
    Must(cudaMemset(out, 0xff, count * 2), "poison");
    p.gemm.rows_per_expert = width;
    Must((width == 0 ? plain : launch)(p.gemm, out, nullptr), what);
    Must(cudaDeviceSynchronize(), what);
    const auto got = ToHost<uint16_t>(out, count);
    std::vector<bool> owned(p.gemm.x.rows_capacity, false);
    for (size_t e = 0; e < p.begins.size(); ++e) std::fill_n(owned.begin() + p.begins[e], p.counts[e], true);
    double error = 0, norm = 0;
    bool untouched = true;
    for (int64_t i = 0; i < count; ++i) {
      if (owned[i / columns]) {
        error += std::pow(double{Bf16(got[i])} - want[i], 2);
        norm += double{want[i]} * want[i];
      } else {
        untouched = untouched && got[i] == 0xffff;
      }
    }
    const double relative = std::sqrt(error / norm);
    const bool same = width == 0 || first.empty() || first == got;
    char text[160];
    std::snprintf(text, sizeof text, "%s %dx%d, %d experts, tile %d: relative error %.2e%s%s", what, columns,
                  p.gemm.w.cols, p.gemm.w.experts, width, relative, same ? "" : ", BITS DIFFER",
                  untouched ? "" : ", FOREIGN ROWS WRITTEN");
    Report(relative < 3e-3 && same && untouched, text);  // bf16 alone rounds to 1.7e-3
    if (first.empty()) first = got;
  }
  cudaFree(out);
}

void Check(const std::vector<int>& rows, int features, int k, uint64_t seed) {
  Problem p = MakeProblem(rows, features, k, seed);
  const int64_t count = int64_t{p.gemm.x.rows_capacity} * features;
  auto* reference = Allocate<float>(count);
  Must(cudaMemset(reference, 0, count * 4), "zero");
  Must(LaunchBf16ReferenceGemm(p.gemm, reference, nullptr), "reference");
  const auto want = ToHost<float>(reference, count);
  Compare(p, "bf16 gemm", LaunchBf16GroupedGemm, LaunchPlainBf16GroupedGemm, features, want);
  std::vector<float> activated(count / 2);
  const int half = features / 2;
  for (int64_t i = 0; i < count / 2; ++i) {
    const double gate = want[i / half * features + i % half], up = want[i / half * features + half + i % half];
    activated[i] = static_cast<float>(gate / (1 + std::exp(-gate)) * up);
  }
  Compare(p, "bf16 gate+up", LaunchBf16GroupedGateUp, LaunchPlainBf16GroupedGateUp, half, activated);
  cudaFree(reference);
  Free(p);
}

void Bench(int experts, int rows, double bandwidth, double rate) {
  constexpr int kHidden = 7168, kIntermediate = 2048;
  const std::vector<int> counts(experts, rows);
  Problem up = MakeProblem(counts, 2 * kIntermediate, kHidden, 11);
  Problem down = MakeProblem(counts, kHidden, kIntermediate, 13);
  auto* out = Allocate<__nv_bfloat16>(int64_t{up.gemm.x.rows_capacity} * kHidden);
  constexpr int64_t kFlushBytes = int64_t{2} << 30;
  auto* flush = Allocate<uint8_t>(kFlushBytes);
  const auto time = [&](const Problem& p, Launch launch) {
    return Median(
        15, [&] { Must(launch(p.gemm, out, nullptr), "bench"); }, [&] { cudaMemsetAsync(flush, 0, kFlushBytes); });
  };
  const double up_us = time(up, LaunchBf16GroupedGateUp), down_us = time(down, LaunchBf16GroupedGemm);
  const double flops = 2.0 * experts * rows * kHidden * kIntermediate;
  const double up_bytes = 2.0 * experts * (2.0 * kIntermediate * kHidden + rows * (kHidden + kIntermediate));
  const double down_bytes = 2.0 * experts * (1.0 * kIntermediate * kHidden + rows * (kIntermediate + kHidden));
  const auto print = [&](double us, double bytes, double operations) {
    std::printf(" | %8.1f us %5.2f TB/s %3.0f%% %5.0f TFLOP/s", us, bytes / us * 1e-6,
                100 * bytes / us * 1e-6 / bandwidth, operations / us * 1e-6);
    if (rate > 0) std::printf(" %3.0f%%", 100 * operations / us * 1e-6 / rate);
  };
  std::printf("%4d %5d", experts, rows);
  print(up_us, up_bytes, 2 * flops);
  print(down_us, down_bytes, flops);
  std::printf("\n");
  std::fflush(stdout);
  for (void* pointer : {static_cast<void*>(out), static_cast<void*>(flush)}) cudaFree(pointer);
  Free(up);
  Free(down);
}

}  // namespace
}  // namespace conclave::cuda

int main(int argc, char** argv) {
  using namespace conclave::cuda;
  const uint64_t seed = argc > 1 ? std::strtoull(argv[1], nullptr, 10) : std::random_device{}();
  std::printf("seed %llu\n", static_cast<unsigned long long>(seed));
  Check({3, 0, 17, 1, 130}, 512, 320, seed);
  Check({1}, 256, 64, seed + 10);
  if (argc <= 2) {
    Check({9, 200}, 4096, 7168, seed + 20);
    const double bandwidth = CopyBandwidth(), rate = Bf16Ceiling();
    std::printf("copy bandwidth %.2f TB/s, bf16 8192^3 %.0f TFLOP/s\nexperts rows | gate+up fused with SwiGLU | down\n",
                bandwidth, rate);
    const int shapes[][2] = {{32, 4}, {32, 16}, {32, 64}, {32, 128}, {32, 256}, {8, 1024}};
    for (const auto& shape : shapes) Bench(shape[0], shape[1], bandwidth, rate);
  }
  std::printf("%d failures\n", g_failures);
  return g_failures != 0;
}
