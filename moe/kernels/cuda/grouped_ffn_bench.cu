// Checks the grouped kernels against the plain loops on fresh random inputs, then times them beside the copy bandwidth
// measured in the same run:  grouped_ffn_bench [seed [check | EXPERTS ROWS]]     Exit 1 where a check fails.
// With `check` it does not time; with EXPERTS and ROWS it times that shape alone, for a profiler.
#include <cmath>
#include <random>

#include "moe/kernels/cuda/bench_support.cuh"
#include "moe/kernels/cuda/grouped_ffn.h"
#include "moe/kernels/cuda/plain_grouped_ffn.h"

namespace conclave::cuda {
namespace {

struct Problem {
  GroupedGemm gemm;
  std::vector<int32_t> begins, counts;
  int rows = 0;  // of all experts
};

Problem MakeProblem(const std::vector<int>& rows_of_expert, int features, int k, uint64_t seed) {
  Problem p;
  int capacity = 0;
  for (int rows : rows_of_expert) {
    p.begins.push_back(capacity);
    p.counts.push_back(rows);
    p.rows += rows;
    capacity += (rows + kRowAlignment - 1) / kRowAlignment * kRowAlignment;
  }
  const int experts = static_cast<int>(rows_of_expert.size());
  auto* x = Allocate<uint8_t>(int64_t{capacity} * k);
  auto* w = Allocate<uint8_t>(int64_t{experts} * features * k);
  auto* x_scales = Allocate<float>(int64_t{capacity} * (k / 128));
  auto* w_scales = Allocate<float>(int64_t{experts} * (features / 128) * (k / 128));
  auto* begins = Allocate<int32_t>(experts);
  auto* counts = Allocate<int32_t>(experts);
  FillFp8<<<1024, 256>>>(x, int64_t{capacity} * k, seed);
  FillFp8<<<1024, 256>>>(w, int64_t{experts} * features * k, seed + 1);
  const int64_t x_count = int64_t{capacity} * (k / 128), w_count = int64_t{experts} * (features / 128) * (k / 128);
  FillScales<<<(x_count + 255) / 256, 256>>>(x_scales, x_count, 1.0f / 64, seed + 2);
  FillScales<<<(w_count + 255) / 256, 256>>>(w_scales, w_count, 1.0f / 64 / std::sqrt(static_cast<float>(k)), seed + 3);
  Must(cudaMemcpy(begins, p.begins.data(), experts * 4, cudaMemcpyHostToDevice), "copy");
  Must(cudaMemcpy(counts, p.counts.data(), experts * 4, cudaMemcpyHostToDevice), "copy");
  p.gemm.x = {x, x_scales, capacity, k};
  p.gemm.w = {w, w_scales, experts, features, k};
  p.gemm.row_begins = begins;
  p.gemm.row_counts = counts;
  p.gemm.rows_per_expert = *std::max_element(rows_of_expert.begin(), rows_of_expert.end());
  return p;
}

void Free(const Problem& p) {
  for (const void* pointer :
       {static_cast<const void*>(p.gemm.x.data), static_cast<const void*>(p.gemm.x.scales), p.gemm.w.data,
        static_cast<const void*>(p.gemm.w.scales), static_cast<const void*>(p.gemm.row_begins),
        static_cast<const void*>(p.gemm.row_counts)}) {
    cudaFree(const_cast<void*>(pointer));
  }
}

// Calls body(row) for every row that belongs to an expert; the others must stay poisoned.
void ForEachRow(const Problem& p, const std::function<void(int64_t)>& body) {
  for (size_t e = 0; e < p.begins.size(); ++e) {
    for (int i = 0; i < p.counts[e]; ++i) body(p.begins[e] + i);
  }
}

const int kWidths[] = {4, 16, 32, 64, 128, 512, 0};  // 0: the plain loops

void CheckGemm(const std::vector<int>& rows, int features, int k, uint64_t seed) {
  Problem p = MakeProblem(rows, features, k, seed);
  const int64_t count = int64_t{p.gemm.x.rows_capacity} * features;
  auto* out = Allocate<uint16_t>(int64_t{p.gemm.x.rows_capacity} * features);
  auto* reference = Allocate<float>(int64_t{p.gemm.x.rows_capacity} * features);
  Must(LaunchReferenceGemm(p.gemm, reference, nullptr), "reference");
  const auto want = ToHost<float>(reference, count);
  std::vector<uint16_t> first;
  for (int width : kWidths) {
    Must(cudaMemset(out, 0xff, int64_t{p.gemm.x.rows_capacity} * features * 2), "poison");
    p.gemm.rows_per_expert = width;
    Must((width == 0 ? LaunchPlainGroupedGemm : LaunchGroupedGemm)(p.gemm, out, nullptr), "grouped gemm");
    Must(cudaDeviceSynchronize(), "grouped gemm");
    const auto got = ToHost<uint16_t>(out, count);
    double error = 0, norm = 0;
    ForEachRow(p, [&](int64_t row) {
      for (int64_t i = row * features; i < (row + 1) * features; ++i) {
        error += std::pow(double{Bf16(got[i])} - want[i], 2);
        norm += double{want[i]} * want[i];
      }
    });
    const double relative = std::sqrt(error / norm);
    char text[160];
    std::snprintf(text, sizeof text, "gemm %dx%d, %d experts, %d rows, tile %d: relative error %.2e%s", features, k,
                  p.gemm.w.experts, p.rows, width, relative,
                  width == 0 || first.empty() || first == got ? "" : ", BITS DIFFER");
    Report(relative < 3e-3 && (width == 0 || first.empty() || first == got), text);  // bf16 alone rounds to 1.7e-3
    if (first.empty()) first = got;
  }
  cudaFree(out);
  cudaFree(reference);
  Free(p);
}

void CheckGateUp(const std::vector<int>& rows, int intermediate, int k, uint64_t seed) {
  Problem p = MakeProblem(rows, 2 * intermediate, k, seed);
  const int capacity = p.gemm.x.rows_capacity;
  auto* reference = Allocate<float>(int64_t{capacity} * 2 * intermediate);
  Must(LaunchReferenceGemm(p.gemm, reference, nullptr), "reference");
  const auto want = ToHost<float>(reference, int64_t{capacity} * 2 * intermediate);
  Fp8Rows out{Allocate<uint8_t>(int64_t{capacity} * intermediate),
              Allocate<float>(int64_t{capacity} * (intermediate / 128)), capacity, intermediate};
  std::vector<uint8_t> first;
  for (int width : kWidths) {
    Must(cudaMemset(out.data, 0xff, int64_t{capacity} * intermediate), "poison");
    Must(cudaMemset(out.scales, 0xff, int64_t{capacity} * (intermediate / 128) * 4), "poison");
    p.gemm.rows_per_expert = width;
    Must((width == 0 ? LaunchPlainGroupedGateUp : LaunchGroupedGateUp)(p.gemm, out, nullptr), "gate+up");
    Must(cudaDeviceSynchronize(), "gate+up");
    const auto got = ToHost<uint8_t>(out.data, int64_t{capacity} * intermediate);
    const auto scales = ToHost<float>(out.scales, int64_t{capacity} * (intermediate / 128));
    double error = 0, norm = 0;
    ForEachRow(p, [&](int64_t row) {
      for (int i = 0; i < intermediate; ++i) {
        const double gate = want[int64_t{row} * 2 * intermediate + i],
                     up = want[int64_t{row} * 2 * intermediate + intermediate + i];
        const double expected = gate / (1 + std::exp(-gate)) * up;
        __nv_fp8_e4m3 value;
        std::memcpy(&value, &got[int64_t{row} * intermediate + i], 1);
        const double actual =
            static_cast<double>(static_cast<float>(value)) * scales[int64_t{i / 128} * capacity + row];
        error += (actual - expected) * (actual - expected);
        norm += expected * expected;
      }
    });
    const double relative = std::sqrt(error / norm);
    char text[160];
    std::snprintf(text, sizeof text, "gate+up %dx%d, %d experts, %d rows, tile %d: relative error %.2e%s",
                  2 * intermediate, k, p.gemm.w.experts, p.rows, width, relative,
                  width == 0 || first.empty() || first == got ? "" : ", BITS DIFFER");
    // e4m3 alone rounds to about 2.6e-2.
    Report(relative < 3e-2 && (width == 0 || first.empty() || first == got), text);
    if (first.empty()) first = got;
  }
  for (const void* pointer : {out.data, static_cast<void*>(out.scales), static_cast<void*>(reference)})
    cudaFree(const_cast<void*>(pointer));
  Free(p);
}

// Both products in one launch give the bits of two, whatever the tile; several launches each, for what waits for what
// depends on timing.
void CheckFfn(const std::vector<int>& rows, int hidden, int intermediate, uint64_t seed) {
  Problem up = MakeProblem(rows, 2 * intermediate, hidden, seed);
  Problem down = MakeProblem(rows, hidden, intermediate, seed + 5);
  const int experts = static_cast<int>(rows.size());
  const int64_t capacity = up.gemm.x.rows_capacity, count = capacity * hidden, activations = capacity * intermediate;
  auto* out = Allocate<uint16_t>(count);
  auto* progress = Allocate<int32_t>(1 + experts);
  const auto poison = [&] {
    Must(cudaMemset(out, 0xff, count * 2), "poison");
    Must(cudaMemset(down.gemm.x.data, 0xff, activations), "poison");
    Must(cudaMemset(down.gemm.x.scales, 0xff, activations / 128 * 4), "poison");
    Must(cudaMemset(progress, 0, (1 + experts) * 4), "zeros");
  };
  poison();
  Must(LaunchGroupedGateUp(up.gemm, down.gemm.x, nullptr), "gate+up");
  Must(LaunchGroupedGemm(down.gemm, out, nullptr), "down");
  Must(cudaDeviceSynchronize(), "two launches");
  const auto want = ToHost<uint16_t>(out, count);
  GroupedFfn ffn;
  ffn.x = up.gemm.x;
  ffn.gate_up = up.gemm.w;
  ffn.down = down.gemm.w;
  ffn.activation = down.gemm.x;
  ffn.row_begins = up.gemm.row_begins;
  ffn.row_counts = up.gemm.row_counts;
  ffn.progress = progress;
  for (int width : kWidths) {
    if (width == 0) continue;
    ffn.rows_per_expert = width;
    int differ = 0;
    for (int repetition = 0; repetition < 5; ++repetition) {
      poison();
      Must(LaunchGroupedFfn(ffn, out, nullptr), "ffn");
      Must(cudaDeviceSynchronize(), "ffn");
      differ += ToHost<uint16_t>(out, count) != want;
    }
    char text[160];
    std::snprintf(text, sizeof text, "ffn %d to %d and back, %d experts, %d rows, tile %d%s", hidden, intermediate,
                  experts, up.rows, width, differ == 0 ? "" : ": BITS DIFFER FROM TWO LAUNCHES'");
    Report(differ == 0, text);
  }
  cudaFree(out);
  cudaFree(progress);
  Free(up);
  Free(down);
}

void Bench(int experts, int rows, double ceiling, bool sustained) {
  constexpr int kHidden = 7168, kIntermediate = 2048;
  const std::vector<int> counts(experts, rows);
  Problem up = MakeProblem(counts, 2 * kIntermediate, kHidden, 11);
  Problem down = MakeProblem(counts, kHidden, kIntermediate, 13);
  auto* out = Allocate<uint16_t>(int64_t{up.gemm.x.rows_capacity} * kHidden);
  constexpr int64_t kFlushBytes = int64_t{4} << 30;
  auto* flush = Allocate<uint8_t>(kFlushBytes);
  const std::function<void()> settle = [&] { cudaMemsetAsync(flush, 0, kFlushBytes); };
  const std::function<void()> nothing = [] {};
  const auto& between = sustained ? nothing : settle;
  const double plain_us = Median(20, [&] { Must(LaunchGroupedGemm(up.gemm, out, nullptr), "gemm"); }, between);
  const double up_us = Median(
      20, [&] { Must(LaunchGroupedGateUp(up.gemm, down.gemm.x, nullptr), "gate+up"); }, between);
  auto* progress = Allocate<int32_t>(1 + experts);
  GroupedFfn ffn;
  ffn.x = up.gemm.x;
  ffn.gate_up = up.gemm.w;
  ffn.down = down.gemm.w;
  ffn.activation = down.gemm.x;
  ffn.row_begins = up.gemm.row_begins;
  ffn.row_counts = up.gemm.row_counts;
  ffn.rows_per_expert = rows;
  ffn.progress = progress;
  const double both_us = Median(20, [&] { Must(LaunchGroupedFfn(ffn, out, nullptr), "ffn"); }, [&] {
    cudaMemsetAsync(progress, 0, (1 + experts) * sizeof(int32_t));
    between();
  });
  const double down_us = Median(20, [&] { Must(LaunchGroupedGemm(down.gemm, out, nullptr), "down"); }, between);
  cudaFree(flush);
  const double flops = 2.0 * experts * rows * kHidden * kIntermediate;
  const double up_bytes = 1.0 * experts * (2.0 * kIntermediate * kHidden + rows * (kHidden + kIntermediate));
  const double down_bytes = 1.0 * experts * (1.0 * kIntermediate * kHidden + rows * (kIntermediate + 2.0 * kHidden));
  std::printf(
      "%4d %5d | %8.1f | %8.1f %5.2f TB/s %3.0f%% %6.0f TFLOP/s | %8.1f %5.2f TB/s %3.0f%% %6.0f TFLOP/s | %8.1f\n",
      experts, rows, plain_us, up_us, up_bytes / up_us * 1e-6, 100 * up_bytes / up_us * 1e-6 / ceiling,
      2 * flops / up_us * 1e-6, down_us, down_bytes / down_us * 1e-6, 100 * down_bytes / down_us * 1e-6 / ceiling,
      flops / down_us * 1e-6, both_us);
  std::fflush(stdout);
  cudaFree(out);
  cudaFree(progress);
  Free(up);
  Free(down);
}

}  // namespace
}  // namespace conclave::cuda

int main(int argc, char** argv) {
  using namespace conclave::cuda;
  const bool check_only = argc > 2 && std::string(argv[2]) == "check";
  const uint64_t seed = argc > 1 ? std::strtoull(argv[1], nullptr, 10) : std::random_device{}();
  if (argc > 3) {
    Bench(std::atoi(argv[2]), std::atoi(argv[3]), 1.0, false);
    return 0;
  }
  std::printf("seed %llu\n", static_cast<unsigned long long>(seed));
  CheckGemm({3, 0, 17, 1, 130}, 512, 384, seed);
  CheckGemm({1}, 256, 128, seed + 10);
  CheckGateUp({5, 64, 0, 129, 2}, 256, 512, seed + 20);
  CheckFfn({5, 64, 0, 129, 2}, 512, 256, seed + 50);
  CheckFfn({1}, 256, 128, seed + 60);
  if (!check_only) {
    CheckGemm({9, 200}, 7168, 2048, seed + 30);
    CheckGateUp({140, 7}, 2048, 7168, seed + 40);
    CheckFfn({140, 7, 0, 33, 1, 64}, 7168, 2048, seed + 70);
    const double ceiling = CopyBandwidth();
    std::printf("copy bandwidth %.2f TB/s\n", ceiling);
    const int shapes[][2] = {{32, 4},   {32, 8},   {32, 16}, {32, 32},  {32, 64},
                             {32, 128}, {32, 256}, {8, 128}, {8, 1024}, {256, 8}};
    for (const bool sustained : {false, true}) {
      std::printf("%s\nexperts rows | gate+up plain us | gate+up fused us | down us | both us\n",
                  sustained ? "back to back" : "after a flush");
      for (const auto& shape : shapes) Bench(shape[0], shape[1], ceiling, sustained);
    }
  }
  std::printf("%d failures\n", g_failures);
  return g_failures != 0;
}
