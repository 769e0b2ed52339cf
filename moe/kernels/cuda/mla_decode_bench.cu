// Checks MLA decode against plain float64 loops on fresh random inputs, then times it beside the copy bandwidth and the
// bfloat16 rate measured in the same run:  mla_decode_bench [seed [check]]     Exit 1 where a check fails.
#include <cmath>
#include <numeric>
#include <random>

#include "moe/kernels/cuda/bench_support.cuh"
#include "moe/kernels/cuda/mla_decode.h"
#include "moe/tensor/latent_row.h"

namespace conclave::cuda {
namespace {

struct Case {
  MlaDtype dtype;
  int heads, latent, rope, page_tokens;
  std::vector<int> lengths;
  float sharpness = 1.5f;  // the scores' standard deviation: where it is large, the maximum keeps moving
  bool packed = false;     // the cache in eight bits
  float magnitude = 1.0f;  // of cached values
};

// A problem on the device and its inputs on the host. Pages are shuffled; slots that no row reaches are NaN.
struct Problem {
  MlaDecode decode;
  std::vector<float> query, cache;
  std::vector<int32_t> tables, lengths;
};

template <typename T>
T* ToDevice(const std::vector<T>& host) {
  T* device = Allocate<T>(host.size());
  Must(cudaMemcpy(device, host.data(), host.size() * sizeof(T), cudaMemcpyHostToDevice), "copy");
  return device;
}

// Rounds values to bfloat16 where that is the problem's dtype, and brings them to the device.
void* Upload(MlaDtype dtype, std::vector<float>& values) {
  if (dtype == MlaDtype::kF32) return ToDevice(values);
  std::vector<__nv_bfloat16> rounded(values.size());
  for (size_t i = 0; i < values.size(); ++i) {
    rounded[i] = __float2bfloat16_rn(values[i]);
    values[i] = __bfloat162float(rounded[i]);
  }
  return ToDevice(rounded);
}

// Rounds rows as a packed cache does, and brings that to the device.
void* UploadPacked(const Case& c, std::vector<float>& values) {
  const LatentRowLayout layout = {c.latent, c.rope};
  const size_t width = c.latent + c.rope, rows = values.size() / width;
  std::vector<std::byte> packed(rows * layout.bytes());
  for (size_t row = 0; row < rows; ++row) {
    std::byte* const to = packed.data() + row * layout.bytes();
    PackLatentRow(layout, &values[row * width], to);
    for (size_t i = 0; i < width; ++i) values[row * width + i] = PackedLatentAt(layout, to, i);
  }
  return ToDevice(packed);
}

Problem MakeProblem(const Case& c, uint64_t seed) {
  Problem p;
  std::mt19937_64 random(seed);
  std::normal_distribution<float> normal;
  const int rows = static_cast<int>(c.lengths.size()), width = c.latent + c.rope;
  const int longest = std::max(1, *std::max_element(c.lengths.begin(), c.lengths.end()));
  const int stride = (longest + c.page_tokens - 1) / c.page_tokens;
  const int pages = rows * stride + 3;
  std::vector<int32_t> order(pages);
  std::iota(order.begin(), order.end(), 0);
  std::shuffle(order.begin(), order.end(), random);
  p.tables.assign(order.begin(), order.begin() + rows * stride);
  p.lengths.assign(c.lengths.begin(), c.lengths.end());
  p.query.resize(size_t(rows) * c.heads * width);
  for (float& value : p.query) value = normal(random);
  p.cache.assign(size_t(pages) * c.page_tokens * width, NAN);
  for (int row = 0; row < rows; ++row) {
    for (int t = 0; t < c.lengths[row]; ++t) {
      const size_t slot = size_t(p.tables[row * stride + t / c.page_tokens]) * c.page_tokens + t % c.page_tokens;
      for (int i = 0; i < width; ++i) p.cache[slot * width + i] = c.magnitude * normal(random);
    }
  }
  MlaDecode& d = p.decode;
  d.dtype = c.dtype;
  d.query = Upload(c.dtype, p.query);
  d.cache = c.packed ? UploadPacked(c, p.cache) : Upload(c.dtype, p.cache);
  d.packed = c.packed;
  d.page_tables = ToDevice(p.tables);
  d.lengths = ToDevice(p.lengths);
  d.rows = rows;
  d.heads = c.heads;
  d.latent = c.latent;
  d.rope = c.rope;
  d.pages = pages;
  d.page_tokens = c.page_tokens;
  d.table_stride = stride;
  d.tokens_max = longest;
  d.scale = c.sharpness / c.magnitude / std::sqrt(static_cast<float>(width));
  d.out = Allocate<float>(int64_t{rows} * c.heads * c.latent);
  d.workspace = Allocate<uint8_t>(MlaWorkspaceBytes(rows, c.heads, c.latent, longest) + 16);
  return p;
}

void Free(const MlaDecode& d) {
  for (const void* pointer :
       {d.query, d.cache, static_cast<const void*>(d.page_tables), static_cast<const void*>(d.lengths),
        static_cast<const void*>(d.out), static_cast<const void*>(d.workspace)}) {
    cudaFree(const_cast<void*>(pointer));
  }
}

// One head in float64.
std::vector<double> Attend(const Problem& p, int row, int head) {
  const MlaDecode& d = p.decode;
  const int width = d.latent + d.rope, length = p.lengths[row];
  const float* query = &p.query[(size_t(row) * d.heads + head) * width];
  const auto token = [&](int t) {
    return &p.cache[(size_t(p.tables[row * d.table_stride + t / d.page_tokens]) * d.page_tokens + t % d.page_tokens) *
                    width];
  };
  std::vector<double> scores(length), out(d.latent, 0.0);
  double largest = -INFINITY, denominator = 0;
  for (int t = 0; t < length; ++t) {
    const float* key = token(t);
    for (int i = 0; i < width; ++i) scores[t] += double{query[i]} * key[i];
    largest = std::max(largest, scores[t] *= d.scale);
  }
  for (double& score : scores) denominator += score = std::exp(score - largest);
  for (int t = 0; t < length; ++t) {
    const float* latent = token(t);
    for (int i = 0; i < d.latent; ++i) out[i] += scores[t] / denominator * latent[i];
  }
  return out;
}

std::vector<float> Run(const MlaDecode& d, bool plain) {
  const int64_t count = int64_t{d.rows} * d.heads * d.latent;
  const size_t workspace = MlaWorkspaceBytes(d.rows, d.heads, d.latent, d.tokens_max);
  Must(cudaMemset(d.out, 0xff, count * (d.dtype == MlaDtype::kF32 ? 4 : 2)), "poison");
  Must(cudaMemset(d.workspace, 0xff, workspace), "poison");
  Must(plain ? LaunchPlainMlaDecode(d, nullptr) : LaunchMlaDecode(d, nullptr), "MLA decode");
  Must(cudaDeviceSynchronize(), "MLA decode");
  if (d.dtype == MlaDtype::kF32) return ToHost<float>(d.out, count);
  const auto bits = ToHost<uint16_t>(d.out, count);
  std::vector<float> values(count);
  for (int64_t i = 0; i < count; ++i) values[i] = Bf16(bits[i]);
  return values;
}

// Each row alone, in a launch of its own with the smallest grid, must have the bits that it has among the others.
bool RowsAloneAreEqual(const Problem& p, const std::vector<float>& together) {
  const MlaDecode& d = p.decode;
  const int64_t row_values = int64_t{d.heads} * d.latent;
  for (int row = 0; row < d.rows; ++row) {
    MlaDecode alone = d;
    const int element = d.dtype == MlaDtype::kF32 ? 4 : 2;
    alone.query = static_cast<const uint8_t*>(d.query) + int64_t{row} * d.heads * (d.latent + d.rope) * element;
    alone.page_tables += row * d.table_stride;
    alone.lengths += row;
    alone.rows = 1;
    alone.tokens_max = std::max(1, p.lengths[row]);
    const auto got = Run(alone, false);
    if (std::memcmp(got.data(), &together[row * row_values], row_values * 4) != 0) return false;
  }
  return true;
}

// A packed cache must give the bits of the same values in bfloat16.
bool UnpackedIsEqual(const Problem& p, const std::vector<float>& packed) {
  MlaDecode unpacked = p.decode;
  std::vector<float> values = p.cache;
  void* const cache = Upload(MlaDtype::kBf16, values);
  unpacked.packed = false;
  unpacked.cache = cache;
  const auto got = Run(unpacked, false);
  cudaFree(cache);
  return std::memcmp(got.data(), packed.data(), packed.size() * 4) == 0;
}

void Check(const Case& c, uint64_t seed) {
  const Problem p = MakeProblem(c, seed);
  const MlaDecode& d = p.decode;
  const auto got = Run(d, false);
  const auto plain = c.packed ? got : Run(d, true);
  double error = 0, plain_error = 0, norm = 0;
  bool finite = true;
  for (int row = 0; row < d.rows; ++row) {
    for (int head = 0; head < d.heads; head += d.heads > 16 ? 13 : 1) {
      const auto want = Attend(p, row, head);
      for (int i = 0; i < d.latent; ++i) {
        const int64_t at = (int64_t{row} * d.heads + head) * d.latent + i;
        error += std::pow(got[at] - want[i], 2);
        plain_error += std::pow(plain[at] - want[i], 2);
        norm += want[i] * want[i];
      }
    }
  }
  for (float value : got) finite = finite && std::isfinite(value);
  error = norm > 0 ? std::sqrt(error / norm) : std::sqrt(error);
  plain_error = norm > 0 ? std::sqrt(plain_error / norm) : std::sqrt(plain_error);
  const bool bits = RowsAloneAreEqual(p, got), unpacked = !c.packed || UnpackedIsEqual(p, got);
  const double bound = c.dtype == MlaDtype::kF32 ? 1e-5 : 4e-3;  // bfloat16 weights and results round to about 2e-3
  char text[200];
  std::snprintf(
      text, sizeof text,
      "%s%s %d heads of %d+%d, pages of %d, %d rows to %d tokens: relative error %.2e, plain loops %.2e%s%s%s",
      c.dtype == MlaDtype::kF32 ? "f32" : "bf16", c.packed ? " over fp8," : "", c.heads, c.latent, c.rope,
      c.page_tokens, d.rows, d.tokens_max, error, plain_error, finite ? "" : ", NOT FINITE",
      bits ? "" : ", BITS DIFFER ALONE", unpacked ? "" : ", BITS DIFFER UNPACKED");
  Report(error < bound && plain_error < bound && finite && bits && unpacked, text);
  Free(d);
}

void CheckAll(uint64_t seed, bool quick) {
  const auto bf16 = MlaDtype::kBf16, f32 = MlaDtype::kF32;
  Check({bf16, 16, 512, 64, 64, {1}}, seed);
  Check({bf16, 16, 512, 64, 64, {64, 65}}, seed + 1);
  Check({bf16, 128, 512, 64, 64, {0, 1, 63, 128, 129, 200}}, seed + 2);
  Check({bf16, 72, 512, 64, 16, {7, 64, 250, 129}}, seed + 3);
  Check({bf16, 5, 512, 64, 32, {300, 31}}, seed + 4);
  Check({bf16, 4, 512, 64, 8, {77, 192}}, seed + 5);
  Check({bf16, 64, 512, 64, 64, {1000, 64, 513}, 20.0f}, seed + 10);
  Check({f32, 8, 128, 16, 16, {40, 1, 0, 130}}, seed + 6);
  Check({bf16, 3, 128, 16, 16, {40, 90}}, seed + 7);
  Check({bf16, 128, 512, 64, 16, {0, 1, 15, 16, 63, 64, 65, 500}, 1.5f, true}, seed + 10);
  Check({bf16, 16, 512, 64, 64, {2047, 70, 129}, 8.0f, true}, seed + 11);
  Check({bf16, 70, 512, 64, 32, {200, 2500}, 1.5f, true}, seed + 12);
  Check({bf16, 20, 512, 64, 8, {9, 333, 64}, 1.5f, true}, seed + 18);
  Check({bf16, 20, 512, 64, 16, {70, 130}, 1.5f, true, 1e6f}, seed + 19);  // scales beyond 2^7
  // More work than multiprocessors: each takes several, of one block, of some, and of rows without tokens.
  std::vector<int> lengths(90);
  std::mt19937_64 random(seed + 13);
  for (int& length : lengths) length = static_cast<int>(random() % 8 == 0 ? random() % 700 : random() % 140);
  Check({bf16, 128, 512, 64, 64, lengths}, seed + 13);
  Check({bf16, 128, 512, 64, 16, lengths, 1.5f, true}, seed + 14);
  // More tiles of heads than multiprocessors, of rows with one split and two: some blocks take whole rows, the last
  // rows are dealt split by split.
  lengths.assign(134, 40);
  for (int row = 0; row < 134; row += 19) lengths[row] = 2049 + static_cast<int>(random() % 2048);
  lengths[132] = 2100;
  Check({bf16, 16, 512, 64, 64, lengths}, seed + 15);
  lengths.resize(69);
  lengths[67] = 4000;
  Check({bf16, 70, 512, 64, 16, lengths, 12.0f}, seed + 16);
  Check({bf16, 70, 512, 64, 16, lengths, 1.5f, true}, seed + 17);
  if (quick) return;
  Check({bf16, 16, 512, 64, 64, {2048, 2049, 5000, 100}}, seed + 8);
  Check({bf16, 128, 512, 64, 16, {4096, 2500}}, seed + 9);
}

// Every row has `tokens` positions; pages are shuffled over the whole cache.
void Bench(int rows, int heads, int tokens, bool packed, int page_tokens, double bandwidth, double rate) {
  constexpr int kLatent = 512, kWidth = 576;
  constexpr LatentRowLayout kLayout = {kLatent, kWidth - kLatent};
  MlaDecode d;
  d.packed = packed;
  d.rows = rows;
  d.heads = heads;
  d.latent = kLatent;
  d.rope = kWidth - kLatent;
  d.page_tokens = page_tokens;
  d.table_stride = (tokens + page_tokens - 1) / page_tokens;
  d.pages = rows * d.table_stride;
  d.tokens_max = tokens;
  d.scale = 0.1f;
  std::vector<int32_t> tables(d.pages);
  std::iota(tables.begin(), tables.end(), 0);
  std::shuffle(tables.begin(), tables.end(), std::mt19937_64(3));
  const int64_t row_bytes = packed ? kLayout.bytes() : 2 * kWidth;
  const int64_t cache_count = int64_t{d.pages} * page_tokens * row_bytes / 2,
                query_count = int64_t{rows} * heads * kWidth;
  auto* cache = Allocate<__nv_bfloat16>(cache_count);
  auto* query = Allocate<__nv_bfloat16>(query_count);
  if (packed) {
    const int64_t cached = int64_t{d.pages} * page_tokens;
    auto* rows_at = reinterpret_cast<uint8_t*>(cache);
    FillFp8<<<1024, 256>>>(rows_at, cached * row_bytes, 17);
    // Scales of 2^-7, keys of 0.01.
    Must(cudaMemset2D(rows_at + kLayout.scales_at(), row_bytes, 120, kLayout.scales(), cached), "scales");
    Must(cudaMemset2D(rows_at + kLayout.rope_at(), row_bytes, 0x3c, 2 * (kWidth - kLatent), cached), "keys");
  } else {
    FillBf16<<<1024, 256>>>(cache, cache_count, 1.0f, 17);
  }
  FillBf16<<<1024, 256>>>(query, query_count, 1.0f, 19);
  d.cache = cache;
  d.query = query;
  d.page_tables = ToDevice(tables);
  d.lengths = ToDevice(std::vector<int32_t>(rows, tokens));
  d.out = Allocate<__nv_bfloat16>(int64_t{rows} * heads * kLatent);
  d.workspace = Allocate<uint8_t>(MlaWorkspaceBytes(rows, heads, kLatent, tokens) + 16);
  constexpr int64_t kFlushBytes = int64_t{2} << 30;
  auto* flush = Allocate<uint8_t>(kFlushBytes);
  const double us = Median(20, [&] { Must(LaunchMlaDecode(d, nullptr), "MLA decode"); },
                           [&] { cudaMemsetAsync(flush, 0, kFlushBytes); });
  cudaFree(flush);
  const double flops = 2.0 * rows * heads * tokens * (kWidth + kLatent);
  const double bytes = double(rows) * tokens * row_bytes + 2.0 * rows * heads * (kWidth + kLatent);
  std::printf("%5d %5d %6d %s %2d | %8.1f us | %5.2f TB/s %3.0f%% | %6.0f TFLOP/s", rows, heads, tokens,
              packed ? "fp8 " : "bf16", page_tokens, us, bytes / us * 1e-6, 100 * bytes / us * 1e-6 / bandwidth,
              flops / us * 1e-6);
  if (rate > 0) std::printf(" %3.0f%%", 100 * flops / us * 1e-6 / rate);
  std::printf("\n");
  std::fflush(stdout);
  Free(d);
}

}  // namespace
}  // namespace conclave::cuda

int main(int argc, char** argv) {
  using namespace conclave::cuda;
  const uint64_t seed = argc > 1 ? std::strtoull(argv[1], nullptr, 10) : std::random_device{}();
  const bool check_only = argc > 2 && std::string(argv[2]) == "check";
  std::printf("seed %llu\n", static_cast<unsigned long long>(seed));
  CheckAll(seed, check_only);
  if (!check_only) {
    const double bandwidth = CopyBandwidth(), rate = Bf16Ceiling();
    std::printf("copy bandwidth %.2f TB/s, bf16 8192^3 %.0f TFLOP/s\n rows heads tokens cache page\n", bandwidth, rate);
    const int shapes[][3] = {{128, 128, 4096}, {128, 16, 4096},  {1, 128, 4096},   {16, 128, 4096}, {64, 128, 4096},
                             {128, 128, 1024}, {128, 128, 2048}, {32, 128, 16384}, {1, 128, 32768}, {64, 16, 8192},
                             {128, 64, 4096},  {2048, 128, 64},  {2048, 128, 128}};
    for (const auto& shape : shapes) Bench(shape[0], shape[1], shape[2], false, 64, bandwidth, rate);
    for (const bool packed : {false, true}) {
      for (const auto& shape : shapes) Bench(shape[0], shape[1], shape[2], packed, 16, bandwidth, rate);
    }
  }
  std::printf("%d failures\n", g_failures);
  return g_failures != 0;
}
