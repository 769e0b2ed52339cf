// `conclave bench-kernels`: what the kernels of this CPU reach, beside what its memory and its dot products could; with
// --device those of a GPU.
#include <algorithm>
#include <chrono>
#include <cstdint>
#include <iostream>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "cli/bench_device_kernels.h"
#include "cli/command.h"
#include "cli/memory_reads.h"
#include "moe/base/cpus.h"
#include "moe/base/json_writer.h"
#include "moe/base/quantile.h"
#include "moe/base/status_macros.h"
#include "moe/base/thread_pool.h"
#include "moe/kernels/dot_ceiling.h"
#include "moe/kernels/kernels.h"
#include "moe/kernels/parallel.h"
#include "moe/tensor/buffer.h"

namespace conclave {
namespace {

constexpr int64_t kDotRounds = 200000;

double Seconds() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

// The times of at least five calls, and of as many as `budget` seconds hold, the shortest first.
std::vector<double> TimesOf(double budget, absl::FunctionRef<void()> call) {
  call();
  std::vector<double> times;
  const double begin = Seconds();
  while (times.size() < 5 || (Seconds() - begin < budget && times.size() < 100000)) {
    const double start = Seconds();
    call();
    times.push_back(Seconds() - start);
  }
  std::sort(times.begin(), times.end());
  return times;
}

// How weights are stored.
struct Format {
  const char* name;
  DType dtype;
  WeightCode code;
  int columns_a_byte;              // 2 for INT4
  int32_t block_rows, block_cols;  // of one scale (of INT8: a row's); 0: no scales
};
constexpr Format kFormats[] = {
    {"f32", DType::kF32, WeightCode::kPlain, 1, 0, 0},  {"bf16", DType::kBF16, WeightCode::kPlain, 1, 0, 0},
    {"f16", DType::kF16, WeightCode::kPlain, 1, 0, 0},  {"f8", DType::kF8E4M3, WeightCode::kPlain, 1, 128, 128},
    {"int8", DType::kU8, WeightCode::kInt8, 1, 1, 1 << 20}, {"int4", DType::kU8, WeightCode::kInt4, 2, 1, 32}};

// rows of x; features and depth of the weights, as models have them: small experts, DeepSeek-V2's, V3's.
struct Shape {
  int64_t rows, columns, depth;
};
constexpr Shape kShapes[] = {{1, 1024, 512},   {1, 4096, 2048},  {4, 4096, 2048},   {8, 4096, 2048},
                             {16, 4096, 2048}, {32, 4096, 2048}, {256, 2048, 2048}, {256, 2048, 7168}};

// Latent attention of one row over a float32 cache: a small model's, DeepSeek-V2-Lite's, DeepSeek-V3's.
struct AttentionShape {
  int heads, latent, rope;
  int64_t tokens;
};
constexpr AttentionShape kAttentionShapes[] = {{16, 256, 32, 4096}, {16, 512, 64, 4096}, {128, 512, 64, 4096}};
constexpr int kPageTokens = 16;

// One line of the table. Of attention, `shape` is {heads, tokens, width of a cached row}.
struct Figure {
  std::string isa, compute, weights;
  Shape shape{};
  double microseconds = 0, gigabytes_per_second = 0, gigaflops = 0;
  double reads = 0;                  // GB/s of plain reads in between
  double of_reads = 0, of_dots = 0;  // shares of the ceilings
};

class Bench {
 public:
  Bench(ThreadPool& threads, double budget_seconds)
      : threads_(threads), budget_(budget_seconds), memory_(threads), scales_(int64_t{1} << 20, 0x38) {}

  double ReadGigabytesPerSecond() { return memory_.Measure(3 * budget_); }

  double DotGigaflops(const Kernels& kernels) {
    std::vector<double> done(static_cast<size_t>(threads_.threads()));
    const double seconds = TimesOf(budget_, [&] {
      threads_.ParallelFor(threads_.threads(), 1, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) done[static_cast<size_t>(i)] = RunDotProducts(kernels, kDotRounds);
      });
    }).front();  // a ceiling is the best that was seen
    double operations = 0;
    for (const double part : done) operations += part;
    return operations / seconds * 1e-9;
  }

  Figure Linear(const Kernels& kernels, const Format& format, const Shape& shape, double dots) {
    MatBuffer floats(DType::kF32, shape.rows, shape.depth), halves(DType::kBF16, shape.rows, shape.depth);
    for (int64_t i = 0; i < shape.rows * shape.depth; ++i) {
      floats.view().Row<float>(0)[i] = static_cast<float>((i * 37 + 11) % 101 - 50) * 0.01f;
    }
    kernels.convert(floats.view(), halves.view());
    const bool takes_halves = kernels.compute == Compute::kBF16 || kernels.compute == Compute::kInt8;
    const ConstMatView x = takes_halves ? halves.view() : floats.view();
    MatBuffer y(DType::kF32, shape.rows, shape.columns);
    MatBuffer packed(DType::kU8, 1, kernels.packed_bytes(shape.rows, shape.depth));
    const int64_t bytes = shape.columns * shape.depth * SizeOf(format.dtype) / format.columns_a_byte;
    int64_t offset = 0;  // each call reads other weights, as decoding does
    const Medians medians = Alternate([&] {
      RunPacked(kernels, x, Weight(format, shape, offset), packed.view().data, y.view());
      offset += bytes;
      if (offset + bytes > MemoryReads::kPoolBytes) offset = 0;
    });
    const double operations = 2.0 * static_cast<double>(shape.rows * shape.columns * shape.depth);
    return Describe(kernels, format.name, shape, medians, bytes, operations, dots);
  }

  // As models do it: rows are packed once for all threads.
  void RunPacked(const Kernels& kernels, ConstMatView x, const WeightView& w, void* memory, MatView y) {
    const PackedRows packed = {memory, x.rows, x.cols, FormOf(w)};
    threads_.ParallelFor((x.rows + kPackedRowsMultiple - 1) / kPackedRowsMultiple, 1, [&](int64_t begin, int64_t end) {
      kernels.pack(x, nullptr, begin * kPackedRowsMultiple, std::min(end * kPackedRowsMultiple, x.rows), packed);
    });
    threads_.ParallelFor(w.rows(), LinearGrain(x.rows, w, threads_.threads()), [&](int64_t begin, int64_t end) {
      kernels.linear_packed(packed, w, begin, end, y);
    });
  }

  // Groups of heads side by side, as many as there are threads. Its products are float32's in every profile, so that
  // `dots` is float32's ceiling. The cache is counted once.
  Figure Attention(const Kernels& kernels, const AttentionShape& shape, double dots) {
    const int64_t width = shape.latent + shape.rope;
    const int64_t page_bytes = kPageTokens * width * 4, pages_each = shape.tokens / kPageTokens;
    const int64_t groups = std::min<int64_t>(threads_.threads(), shape.heads);
    std::vector<const void*> pages(static_cast<size_t>(MemoryReads::kPoolBytes / page_bytes));
    for (size_t i = 0; i < pages.size(); ++i) pages[i] = memory_.pool() + static_cast<int64_t>(i) * page_bytes;
    MatBuffer query(DType::kF32, shape.heads, width), out(DType::kF32, shape.heads, shape.latent);
    MatBuffer scratch(DType::kF32, groups, MlaScratchFloats(shape.heads, shape.latent, shape.rope));
    for (int64_t i = 0; i < shape.heads * width; ++i) query.view().Row<float>(0)[i] = static_cast<float>(i % 7) * 0.01f;
    int64_t first_page = 0;  // each call reads another cache, as layers do
    const Medians medians = Alternate([&] {
      threads_.ParallelFor(groups, 1, [&](int64_t group, int64_t) {
        const int64_t begin = shape.heads * group / groups, end = shape.heads * (group + 1) / groups;
        MlaAttentionArgs args;
        args.query = query.view().Row<float>(begin);
        args.query_stride = width;
        args.pages = pages.data() + first_page;
        args.cache_dtype = DType::kF32;
        args.page_tokens = kPageTokens;
        args.tokens = shape.tokens;
        args.heads = static_cast<int>(end - begin);
        args.latent = shape.latent;
        args.rope = shape.rope;
        args.scale = 0.1f;
        args.out = out.view().Row<float>(begin);
        args.out_stride = shape.latent;
        args.scratch = scratch.view().Row<float>(group);
        kernels.mla_attention(args);
      });
      first_page += pages_each;
      if (first_page + pages_each > static_cast<int64_t>(pages.size())) first_page = 0;
    });
    const double operations = 2.0 * static_cast<double>(shape.heads * shape.tokens * (width + shape.latent));
    return Describe(kernels, "mla", {shape.heads, shape.tokens, width}, medians, pages_each * page_bytes, operations,
                    dots);
  }

 private:
  struct Medians {
    double seconds;  // of a call
    double reads;    // GB/s
  };

  // Calls and plain reads in turn, some milliseconds each, so that what else the machine does meets both. At least five
  // of each, and as many as the budget holds.
  Medians Alternate(absl::FunctionRef<void()> call) {
    std::vector<double> times, reads;
    const double begin = Seconds();
    call();
    while (reads.size() < 5 || (Seconds() - begin < budget_ && times.size() < 100000)) {
      const double reads_begin = Seconds();
      reads.push_back(memory_.ReadOn());
      const double calls_begin = Seconds(), calls_end = 2 * calls_begin - reads_begin;
      for (double now = calls_begin; now < calls_end;) {
        call();
        const double then = Seconds();
        times.push_back(then - std::exchange(now, then));
      }
    }
    return {MedianOf(std::move(times)), MedianOf(std::move(reads))};
  }

  static Figure Describe(const Kernels& kernels, const char* weights, const Shape& shape, const Medians& medians,
                         int64_t bytes, double operations, double dots) {
    Figure figure;
    figure.isa = std::string(kernels.isa);
    figure.compute = std::string(Name(kernels.compute));
    figure.weights = weights;
    figure.shape = shape;
    figure.microseconds = medians.seconds * 1e6;
    figure.gigabytes_per_second = static_cast<double>(bytes) / medians.seconds * 1e-9;
    figure.gigaflops = operations / medians.seconds * 1e-9;
    figure.reads = medians.reads;
    figure.of_reads = figure.gigabytes_per_second / figure.reads;
    figure.of_dots = figure.gigaflops / dots;
    return figure;
  }

  WeightView Weight(const Format& format, const Shape& shape, int64_t offset) const {
    WeightView weight;
    const int64_t row = shape.depth / format.columns_a_byte;
    weight.matrix =
        BasicMatView<const void*>{memory_.pool() + offset, format.dtype, Device::kCpu, shape.columns, row, row};
    weight.code = format.code;
    if (format.block_cols == 0) return weight;
    weight.block_rows = format.block_rows;
    weight.block_cols = format.block_cols;
    const int64_t scale_rows = (shape.columns + format.block_rows - 1) / format.block_rows;
    const int64_t scale_cols = (shape.depth + format.block_cols - 1) / format.block_cols;
    weight.scales =
        BasicMatView<const void*>{scales_.data(), DType::kBF16, Device::kCpu, scale_rows, scale_cols, scale_cols};
    return weight;
  }

  ThreadPool& threads_;
  const double budget_;
  MemoryReads memory_;
  std::vector<uint8_t> scales_;  // BF16, all the same small number
};

// The ceilings of one table of kernels.
struct Ceiling {
  std::string isa, compute;
  double gigaflops = 0;
};

class BenchKernelsCommand final : public Command {
 public:
  std::string name() const override { return "bench-kernels"; }
  std::string summary() const override { return "measure matrix products against the limits of memory and cores"; }

  void Declare(CommandFlags& flags) override {
    CommandFlag& threads = flags.Add("threads", &thread_count_, "N", "cores to use; 0: all");
    threads.minimum = 0;
    threads.maximum = 1024;
    flags.Add("isa", &isa_, "NAME", "the instruction set; absent: the fastest for each way of computing; all: each")
        .choices = {"amx", "avx512-bf16", "avx512", "avx2", "scalar", "all"};
    CommandFlag& seconds = flags.Add("seconds", &seconds_, "S", "time for each figure");
    seconds.minimum = 0.001;
    seconds.maximum = 60;
    CommandFlag& rows = flags.Add("rows-max", &rows_max_, "N", "leave out products of more rows than this");
    rows.minimum = 1;
    rows.maximum = 1e6;
    device_.Declare(flags);
    flags.AddOutput(&output_);
  }

  absl::Status Run(const CommandContext&) override {
    if (device_.device != "cpu") return BenchDeviceKernels(device_, output_);
    ASSIGN_OR_RETURN(const std::vector<const Kernels*> tables, Tables());
    const int cores = UsableCores();
    ThreadPool threads(thread_count_ > 0 ? thread_count_ : cores);
    Bench bench(threads, seconds_);
    const double reads = bench.ReadGigabytesPerSecond();
    std::vector<Ceiling> ceilings;
    std::vector<Figure> products, attention;
    const bool text = output_ != "json";
    if (text) std::cout << absl::StrFormat("%d threads; memory reads: %.1f GB/s\n", threads.threads(), reads);
    for (const Kernels* kernels : tables) {
      const double dots = bench.DotGigaflops(*kernels);
      ceilings.push_back({std::string(kernels->isa), std::string(Name(kernels->compute)), dots});
      if (text) PrintHeading(ceilings.back());
      const bool integers = kernels->compute == Compute::kInt8;
      for (const Format& format : kFormats) {
        if (integers && format.code == WeightCode::kPlain) continue;  // computed as in bf16
        for (const Shape& shape : kShapes) {
          if (shape.rows > rows_max_) continue;
          products.push_back(bench.Linear(*kernels, format, shape, dots));
          if (text) PrintLine(products.back());
        }
      }
      if (integers || kernels->compute == Compute::kBF16x3) continue;  // its attention is kBF16's or kF32's
      ASSIGN_OR_RETURN(const Kernels* floats, CpuKernels(Compute::kF32, FloatIsa(kernels->isa)));
      const double float_dots = bench.DotGigaflops(*floats);
      if (text) std::cout << absl::StrFormat("attention of one row; float32 in registers: %.0f GFLOP/s\n", float_dots);
      for (const AttentionShape& shape : kAttentionShapes) {
        attention.push_back(bench.Attention(*kernels, shape, float_dots));
        if (text) PrintLine(attention.back());
      }
    }
    if (!text) std::cout << Json(threads.threads(), reads, ceilings, products, attention) << "\n";
    return absl::OkStatus();
  }

 private:
  absl::StatusOr<std::vector<const Kernels*>> Tables() const {
    std::vector<const Kernels*> tables;
    absl::Status last;
    for (const Compute compute : {Compute::kInt8, Compute::kBF16, Compute::kBF16x3, Compute::kF32}) {
      std::vector<std::string> names = {isa_};
      if (isa_ == "all") names = {"amx", "avx512-bf16", "avx512", "avx2", "scalar"};
      for (const std::string& name : names) {
        const absl::StatusOr<const Kernels*> table = CpuKernels(compute, name);
        if (table.ok()) tables.push_back(*table);
        if (!table.ok()) last = table.status();
      }
    }
    if (tables.empty()) return last;
    return tables;
  }

  // The set that does the float32 work of `isa`.
  static absl::string_view FloatIsa(absl::string_view isa) {
    return isa == "amx" || isa == "avx512-bf16" ? "avx512" : isa;
  }

  static void PrintHeading(const Ceiling& ceiling) {
    std::cout << absl::StrFormat("\n%s, compute %s; dot products in registers: %.0f GFLOP/s\n", ceiling.isa,
                                 ceiling.compute, ceiling.gigaflops)
              << absl::StrFormat("%-8s %5s %6s %6s %10s %8s %9s %9s %8s\n", "weights", "rows", "N", "K", "us", "GB/s",
                                 "of reads", "GFLOP/s", "of dots");
  }

  static void PrintLine(const Figure& figure) {
    std::cout << absl::StrFormat("%-8s %5d %6d %6d %10.1f %8.1f %8.0f%% %9.1f %7.0f%%\n", figure.weights,
                                 figure.shape.rows, figure.shape.columns, figure.shape.depth, figure.microseconds,
                                 figure.gigabytes_per_second, 100 * figure.of_reads, figure.gigaflops,
                                 100 * figure.of_dots)
              << std::flush;
  }

  static std::string Json(int threads, double reads, const std::vector<Ceiling>& ceilings,
                          const std::vector<Figure>& products, const std::vector<Figure>& attention) {
    JsonWriter json;
    json.BeginObject().Key("threads").Number(threads).Key("read_gb_per_s").Real(reads).Key("dots").BeginArray();
    for (const Ceiling& ceiling : ceilings) {
      json.BeginObject().Key("isa").Text(ceiling.isa).Key("compute").Text(ceiling.compute);
      json.Key("gflop_per_s").Real(ceiling.gigaflops).End();
    }
    json.End().Key("figures").BeginArray();
    for (const Figure& figure : products) {
      BeginFigure(figure, json);
      json.Key("weights").Text(figure.weights).Key("rows").Number(figure.shape.rows);
      json.Key("n").Number(figure.shape.columns).Key("k").Number(figure.shape.depth).End();
    }
    json.End().Key("attention").BeginArray();
    for (const Figure& figure : attention) {
      BeginFigure(figure, json);
      json.Key("heads").Number(figure.shape.rows).Key("tokens").Number(figure.shape.columns);
      json.Key("width").Number(figure.shape.depth).End();
    }
    return json.End().End().text();
  }

  static void BeginFigure(const Figure& figure, JsonWriter& json) {
    json.BeginObject().Key("isa").Text(figure.isa).Key("compute").Text(figure.compute);
    json.Key("us").Real(figure.microseconds).Key("gb_per_s").Real(figure.gigabytes_per_second);
    json.Key("read_gb_per_s").Real(figure.reads).Key("of_reads").Real(figure.of_reads);
    json.Key("gflop_per_s").Real(figure.gigaflops);
    json.Key("of_dots").Real(figure.of_dots);
  }

  DeviceBenchFlags device_;
  int thread_count_ = 0, rows_max_ = 256;
  double seconds_ = 0.2;
  std::string isa_, output_ = "text";
};

}  // namespace

std::unique_ptr<Command> NewBenchKernelsCommand() { return std::make_unique<BenchKernelsCommand>(); }

}  // namespace conclave
