// Prints what the kernels of this CPU reach: GB/s of weights read at one row (decode), GFLOP/s at many rows (prefill),
// and latent attention, each beside the read bandwidth measured in the same run. Not a test: machines are noisy.
//   bazel run //moe/kernels:kernels_bench -- [threads [isa]]
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "moe/base/thread_pool.h"
#include "moe/kernels/kernels.h"
#include "moe/kernels/kernels_testing.h"
#include "moe/kernels/parallel.h"

namespace conclave {
namespace {

using testing::Values;

constexpr int64_t kPoolBytes = int64_t{768} << 20;  // more than the caches that a small machine may call its own
constexpr double kSecondsPerFigure = 0.3;

double Seconds() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

// The median time of one call.
double Median(absl::FunctionRef<void()> call) {
  call();
  std::vector<double> times;
  const double begin = Seconds();
  while (times.size() < 5 || (Seconds() - begin < kSecondsPerFigure && times.size() < 100000)) {
    const double start = Seconds();
    call();
    times.push_back(Seconds() - start);
  }
  std::nth_element(times.begin(), times.begin() + times.size() / 2, times.end());
  return times[times.size() / 2];
}

// Reads the whole pool once, as fast as loads with prefetches go.
double ReadGbps(ThreadPool& threads, const std::vector<uint8_t>& pool) {
  typedef uint64_t Wide __attribute__((vector_size(16)));
  volatile uint64_t sink = 0;
  const double seconds = Median([&] {
    constexpr int64_t kPiece = 1 << 20;
    threads.ParallelFor(kPoolBytes / kPiece, 16, [&](int64_t begin, int64_t end) {
      Wide sums[4] = {};
      const auto* data = reinterpret_cast<const Wide*>(pool.data() + begin * kPiece);
      for (int64_t i = 0; i < (end - begin) * kPiece / 16; i += 4) {
        __builtin_prefetch(data + i + 256);
        for (int j = 0; j < 4; ++j) sums[j] ^= data[i + j];
      }
      const Wide sum = sums[0] ^ sums[1] ^ sums[2] ^ sums[3];
      sink = sink ^ sum[0] ^ sum[1];
    });
  });
  return kPoolBytes / seconds * 1e-9;
}

struct Format {
  const char* name;
  DType dtype;
  bool scaled;
};
constexpr Format kFormats[] = {{"F32", DType::kF32, false},
                               {"BF16", DType::kBF16, false},
                               {"F16", DType::kF16, false},
                               {"F8 128x128", DType::kF8E4M3, true}};

class Bench {
 public:
  Bench(const Kernels& kernels, ThreadPool& threads, std::vector<uint8_t>& pool, double read_gbps)
      : kernels_(kernels), threads_(threads), pool_(pool), read_gbps_(read_gbps), scales_(1 << 16, 0.01f) {}

  void Linear(const Format& format, int64_t rows, int64_t columns, int64_t depth) {
    Values values(1);
    MatBuffer floats = values.Matrix(rows, depth);
    MatBuffer halves(DType::kBF16, rows, depth);
    kernels_.convert(floats.view(), halves.view());
    const ConstMatView x = kernels_.compute == Compute::kF32 ? floats.view() : halves.view();
    MatBuffer y(DType::kF32, rows, columns);
    const int64_t bytes = columns * depth * SizeOf(format.dtype);
    int64_t offset = 0;  // each call reads other weights, as decoding does
    const double seconds = Median([&] {
      const WeightView w = Weight(format, columns, depth, offset);
      ParallelLinear(kernels_, threads_, x, w, y.view());
      offset += bytes;
      if (offset + bytes > kPoolBytes) offset = 0;
    });
    const double gbps = bytes / seconds * 1e-9;
    const double gflops = 2.0 * rows * columns * depth / seconds * 1e-9;
    std::printf("%-13s %-5s %-11s M %4ld  N %5ld  K %5ld  %9.1f us  %7.1f GB/s (%3.0f%% of read)  %8.1f GFLOP/s\n",
                std::string(kernels_.isa).c_str(), std::string(Name(kernels_.compute)).c_str(), format.name,
                static_cast<long>(rows), static_cast<long>(columns), static_cast<long>(depth), seconds * 1e6, gbps,
                100 * gbps / read_gbps_, gflops);
  }

  void Attention(int heads, int latent, int rope, int64_t tokens) {
    const int width = latent + rope;
    const DType dtype = kernels_.compute == Compute::kF32 ? DType::kF32 : DType::kBF16;
    Values values(2);
    const MatBuffer query = values.Matrix(heads, width);
    MatBuffer cache(dtype, tokens, width), out(DType::kF32, heads, latent);
    const MatBuffer rows = values.Matrix(tokens, width);
    kernels_.convert(rows.view(), cache.view());
    std::vector<float> scratch(MlaScratchFloats(heads, latent, rope));
    std::vector<const void*> pages;
    for (int64_t token = 0; token < tokens; token += 16) pages.push_back(cache.view().RowBytes(token));
    const MlaAttentionArgs args = {
        query.view().Row<float>(0), width,  pages.data(),  dtype, 16, tokens, heads, latent, rope, 0.05f,
        out.view().Row<float>(0),   latent, scratch.data()};
    const double seconds = Median([&] { kernels_.mla_attention(args); });
    std::printf("%-13s %-5s attention   %3d heads of %d+%d, %ld tokens, 1 thread: %9.1f us  %8.1f GFLOP/s\n",
                std::string(kernels_.isa).c_str(), std::string(Name(kernels_.compute)).c_str(), heads, latent, rope,
                static_cast<long>(tokens), seconds * 1e6, 2.0 * heads * tokens * (width + latent) / seconds * 1e-9);
  }

 private:
  WeightView Weight(const Format& format, int64_t columns, int64_t depth, int64_t offset) const {
    WeightView w;
    w.matrix = BasicMatView<const void*>{pool_.data() + offset, format.dtype, Device::kCpu, columns, depth, depth};
    if (!format.scaled) return w;
    w.block_rows = w.block_cols = 128;
    const int64_t scale_cols = (depth + 127) / 128;
    w.scales = BasicMatView<const void*>{scales_.data(),        DType::kF32, Device::kCpu,
                                         (columns + 127) / 128, scale_cols,  scale_cols};
    return w;
  }

  const Kernels& kernels_;
  ThreadPool& threads_;
  std::vector<uint8_t>& pool_;
  double read_gbps_;
  std::vector<float> scales_;
};

int Main(int argc, char** argv) {
  ThreadPool threads(argc > 1 ? std::max(1, std::atoi(argv[1])) : 1);
  std::vector<uint8_t> pool(kPoolBytes);
  // Bytes whose every reading is a small finite number: 0x3c is 1.5 as e4m3, 0.0117 as bfloat16, about 1 as float16.
  for (int64_t i = 0; i < kPoolBytes; ++i) pool[i] = static_cast<uint8_t>(0x38 + (i * 2654435761u >> 13) % 6);
  const double read_gbps = ReadGbps(threads, pool);
  std::printf("%d threads; reads: %.1f GB/s\n", threads.threads(), read_gbps);
  for (const Kernels* kernels : testing::TablesOfThisCpu()) {
    if (argc > 2 && kernels->isa != argv[2]) continue;
    Bench bench(*kernels, threads, pool, read_gbps);
    for (const Format& format : kFormats) {
      bench.Linear(format, 1, 4096, 2048);
      bench.Linear(format, 1, 1024, 512);
      bench.Linear(format, 4, 4096, 2048);
      bench.Linear(format, 16, 4096, 2048);
      bench.Linear(format, 256, 2048, 2048);
      bench.Linear(format, 256, 1024, 7168);
    }
    bench.Attention(128, 512, 64, 1024);
    bench.Attention(16, 256, 32, 1024);
    bench.Attention(4, 128, 16, 256);
  }
  return 0;
}

}  // namespace
}  // namespace conclave

int main(int argc, char** argv) { return conclave::Main(argc, argv); }
