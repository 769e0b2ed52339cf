// Checks the dense products against the plain loops on fresh random inputs and for equal bits whatever the number of
// rows, then times DeepSeek-V3's shapes beside ceilings measured in the same run:
// dense_linear_bench [seed [check]]     Exit 1 where a check fails; with `check` it does not time.
#include <cmath>
#include <random>

#include "moe/kernels/cuda/bench_support.cuh"
#include "moe/kernels/cuda/dense_linear.h"

namespace conclave::cuda {
namespace {

// A matrix and as many rows as any launch takes.
struct Problem {
  Fp8Linear fp8;
  Bf16Linear bf16;
  int rows_max = 0;
};

Problem MakeProblem(int rows_max, int features, int k, uint64_t seed) {
  Problem p;
  const int capacity = (rows_max + 3) / 4 * 4;
  const int64_t x_scales = int64_t{capacity} * (k / 128), w_scales = int64_t{(features + 127) / 128} * (k / 128);
  auto* x = Allocate<uint8_t>(int64_t{capacity} * k);
  auto* w = Allocate<uint8_t>(int64_t{features} * k);
  p.fp8.x = {x, Allocate<float>(x_scales), capacity, k};
  p.fp8.w = w;
  auto* of_w = Allocate<float>(w_scales);
  p.fp8.w_scales = of_w;
  FillFp8<<<1024, 256>>>(x, int64_t{capacity} * k, seed);
  FillFp8<<<1024, 256>>>(w, int64_t{features} * k, seed + 1);
  FillScales<<<(x_scales + 255) / 256, 256>>>(p.fp8.x.scales, x_scales, 1.0f / 64, seed + 2);
  FillScales<<<(w_scales + 255) / 256, 256>>>(of_w, w_scales, 1.0f / 64 / std::sqrt(static_cast<float>(k)), seed + 3);
  p.fp8.features = p.bf16.features = features;
  p.bf16.out = Allocate<float>(int64_t{capacity} * features);
  p.fp8.out = p.bf16.out;
  p.fp8.out_stride = features;
  auto* x16 = Allocate<__nv_bfloat16>(int64_t{capacity} * k);
  auto* w16 = Allocate<__nv_bfloat16>(int64_t{features} * k);
  FillBf16<<<1024, 256>>>(x16, int64_t{capacity} * k, 1.0f, seed + 4);
  FillBf16<<<1024, 256>>>(w16, int64_t{features} * k, 1.0f / std::sqrt(static_cast<float>(k)), seed + 5);
  p.bf16.x = x16;
  p.bf16.w = w16;
  p.bf16.cols = k;
  p.bf16.row_range = Allocate<int32_t>(2);
  p.rows_max = rows_max;
  return p;
}

void Free(const Problem& p) {
  for (const void* pointer : {static_cast<const void*>(p.fp8.x.data), static_cast<const void*>(p.fp8.x.scales), p.fp8.w,
                              static_cast<const void*>(p.fp8.w_scales), static_cast<const void*>(p.fp8.out), p.bf16.x,
                              p.bf16.w, static_cast<const void*>(p.bf16.row_range)}) {
    cudaFree(const_cast<void*>(pointer));
  }
}

void Run(Problem& p, bool fp8, int rows) {
  if (fp8) {
    p.fp8.rows = rows;
    Must(LaunchFp8Linear(p.fp8, nullptr), "fp8 linear");
    return;
  }
  const int32_t range[2] = {0, rows};
  Must(cudaMemcpyAsync(const_cast<int32_t*>(p.bf16.row_range), range, sizeof range, cudaMemcpyHostToDevice), "range");
  p.bf16.rows = rows;
  Must(LaunchBf16Linear(p.bf16, nullptr), "bf16 linear");
}

std::vector<float> Reference(const Problem& p, bool fp8) {
  const int64_t count = int64_t{p.rows_max} * p.fp8.features;
  auto* out = Allocate<float>(int64_t{p.fp8.x.rows_capacity} * p.fp8.features);
  const int32_t range[2] = {0, p.rows_max};
  Must(cudaMemcpy(const_cast<int32_t*>(p.bf16.row_range), range, sizeof range, cudaMemcpyHostToDevice), "range");
  if (fp8) {
    GroupedGemm gemm;
    gemm.x = p.fp8.x;
    gemm.w = {p.fp8.w, p.fp8.w_scales, 1, p.fp8.features, p.fp8.x.cols};
    gemm.row_begins = p.bf16.row_range;
    gemm.row_counts = p.bf16.row_range + 1;
    Must(LaunchReferenceGemm(gemm, out, nullptr), "reference");
  } else {
    Bf16GroupedGemm gemm;
    gemm.x = {p.bf16.x, p.rows_max, p.bf16.cols};
    gemm.w = {p.bf16.w, 1, p.bf16.features, p.bf16.cols};
    gemm.row_begins = p.bf16.row_range;
    gemm.row_counts = p.bf16.row_range + 1;
    Must(LaunchBf16ReferenceGemm(gemm, out, nullptr), "reference");
  }
  const auto host = ToHost<float>(out, count);
  cudaFree(out);
  return host;
}

// Every number of rows: near the reference, each row's bits those of the largest launch, nothing past the rows written.
void Check(int features, int k, const std::vector<int>& rows, bool fp8, uint64_t seed) {
  Problem p = MakeProblem(rows[0], features, k, seed);
  const auto want = Reference(p, fp8);
  const int64_t count = static_cast<int64_t>(want.size());
  std::vector<float> first;
  for (const int each : rows) {
    Must(cudaMemset(p.fp8.out, 0xff, count * 4), "poison");
    Run(p, fp8, each);
    Must(cudaDeviceSynchronize(), "linear");
    const auto got = ToHost<float>(p.fp8.out, count);
    if (first.empty()) first = got;
    double error = 0, norm = 0;
    for (int64_t i = 0; i < int64_t{each} * features; ++i) {
      error += std::pow(double{got[i]} - want[i], 2);
      norm += double{want[i]} * want[i];
    }
    const bool same = std::memcmp(got.data(), first.data(), int64_t{each} * features * 4) == 0;
    bool untouched = true;
    for (int64_t i = int64_t{each} * features; i < count; ++i) untouched = untouched && std::isnan(got[i]);
    const double relative = std::sqrt(error / norm);
    char text[160];
    std::snprintf(text, sizeof text, "%s %dx%d, %d rows: relative error %.2e%s%s", fp8 ? "fp8 " : "bf16", features, k,
                  each, relative, same ? "" : ", BITS DIFFER", untouched ? "" : ", WROTE PAST THE ROWS");
    Report(relative < 1e-3 && same && untouched, text);
  }
  Free(p);
}

// Gate+up in two kernels gives the bits of the fused one.
void CheckSwiGlu(int intermediate, int k, const std::vector<int>& rows, uint64_t seed) {
  Problem p = MakeProblem(rows[0], 2 * intermediate, k, seed);
  const int capacity = p.fp8.x.rows_capacity;
  const int64_t count = int64_t{capacity} * intermediate, scales = int64_t{capacity} * (intermediate / 128);
  const auto make = [&] { return Fp8Rows{Allocate<uint8_t>(count), Allocate<float>(scales), capacity, intermediate}; };
  const Fp8Rows fused = make(), apart = make();
  for (const int each : rows) {
    for (const Fp8Rows& out : {fused, apart}) {
      Must(cudaMemset(out.data, 0xff, count), "poison");
      Must(cudaMemset(out.scales, 0xff, scales * 4), "poison");
    }
    const int32_t range[2] = {0, each};
    Must(cudaMemcpy(const_cast<int32_t*>(p.bf16.row_range), range, sizeof range, cudaMemcpyHostToDevice), "range");
    GroupedGemm gemm;
    gemm.x = p.fp8.x;
    gemm.w = {p.fp8.w, p.fp8.w_scales, 1, p.fp8.features, k};
    gemm.row_begins = p.bf16.row_range;
    gemm.row_counts = p.bf16.row_range + 1;
    gemm.rows_per_expert = each;
    Must(LaunchGroupedGateUp(gemm, fused, nullptr), "gate+up");
    Run(p, true, each);
    Must(LaunchSwiGluQuantise(static_cast<const float*>(p.fp8.out), each, apart, nullptr), "swiglu");
    Must(cudaDeviceSynchronize(), "swiglu");
    const bool same = ToHost<uint8_t>(fused.data, count) == ToHost<uint8_t>(apart.data, count) &&
                      ToHost<uint32_t>(fused.scales, scales) == ToHost<uint32_t>(apart.scales, scales);
    Report(same, "gate+up in two kernels, " + std::to_string(each) + " rows" + (same ? "" : ": BITS DIFFER"));
  }
  for (const Fp8Rows& out : {fused, apart}) {
    cudaFree(out.data);
    cudaFree(out.scales);
  }
  Free(p);
}

void Bench(const char* name, int features, int k, bool fp8, const std::vector<int>& rows, double copy, double bf16) {
  Problem p = MakeProblem(*std::max_element(rows.begin(), rows.end()), features, k, 21);
  constexpr int64_t kFlushBytes = int64_t{1} << 30;
  auto* flush = Allocate<uint8_t>(kFlushBytes);
  for (const int each : rows) {
    const double us = Median(11, [&] { Run(p, fp8, each); }, [&] { cudaMemsetAsync(flush, 0, kFlushBytes); });
    const double size = fp8 ? 1 : 2, bytes = size * features * k + each * (size * k + 4.0 * features);
    const double rate = 2.0 * each * features * k / us * 1e-6;
    std::printf(
        "%-8s %6d x %5d %s %6d rows | %8.1f us | %5.2f TB/s %3.0f%% of copy | %6.0f TFLOP/s %3.0f%% of cuBLAS bf16\n",
        name, features, k, fp8 ? "fp8 " : "bf16", each, us, bytes / us * 1e-6, 100 * bytes / us * 1e-6 / copy, rate,
        bf16 > 0 ? 100 * rate / bf16 : 0.0);
    std::fflush(stdout);
  }
  cudaFree(flush);
  Free(p);
}

}  // namespace
}  // namespace conclave::cuda

int main(int argc, char** argv) {
  using namespace conclave::cuda;
  const uint64_t seed = argc > 1 ? std::strtoull(argv[1], nullptr, 10) : std::random_device{}();
  std::printf("seed %llu\n", static_cast<unsigned long long>(seed));
  const std::vector<int> rows = {389, 256, 200, 130, 128, 65, 33, 32, 17, 16, 9, 8, 3, 1};
  Check(2112, 2048, rows, true, seed);       // features that fill no tile
  Check(272, 128, rows, true, seed + 10);    // one block of K
  Check(34816, 384, {389, 128, 1}, true, seed + 20);  // several tiles a block of threads, wide ones among them
  Check(520, 448, rows, false, seed + 30);
  CheckSwiGlu(384, 512, {128, 40, 16, 1}, seed + 40);
  if (argc <= 2) {
    const double copy = CopyBandwidth(), bf16 = Bf16Ceiling();
    std::printf("copy %.2f TB/s, cuBLAS bf16 %.0f TFLOP/s\n", copy, bf16);
    const std::vector<int> many = {1, 16, 64, 128, 1024, 16384};
    Bench("qkv_a", 2112, 7168, true, many, copy, bf16);
    Bench("q_b", 24576, 1536, true, many, copy, bf16);
    Bench("o", 7168, 16384, true, many, copy, bf16);
    Bench("down", 7168, 18432, true, many, copy, bf16);
    Bench("shared", 7168, 2048, true, many, copy, bf16);
    Bench("head", 129280, 7168, false, {1, 16, 64, 128}, copy, bf16);
  }
  std::printf("%d failures\n", g_failures);
  return g_failures != 0;
}
