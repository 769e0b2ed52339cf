#include "cli/bench_device_kernels.h"

#include <cstdint>
#include <iostream>
#include <string>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "moe/base/json_writer.h"
#include "moe/base/status_macros.h"
#include "moe/kernels/accelerator/kernel_bench.h"
#include "moe/kernels/accelerator/open_accelerator.h"

namespace conclave {
namespace {

constexpr int64_t kRowsMax = 16384;

double Share(double part, double whole) { return whole > 0 ? part / whole : 0; }

void PrintText(const std::string& name, const AcceleratorCeilings& ceilings,
                      const std::vector<KernelFigure>& figures) {
  std::cout << absl::StrFormat("%s: copies %.2f TB/s (read and written), 8192^3 by cuBLAS: bfloat16 %.0f, e4m3 %.0f "
                               "TFLOP/s\n", name,
                               ceilings.copy_bytes_per_second * 1e-12, ceilings.bf16_flops_per_second * 1e-12,
                               ceilings.fp8_flops_per_second * 1e-12);
  std::cout << absl::StrFormat("%-30s %6s %10s %7s %8s %8s %9s\n", "", "rows", "us", "TB/s", "of copy", "TFLOP/s",
                               "of bf16");
  for (const KernelFigure& figure : figures) {
    const double bandwidth = figure.bytes / figure.seconds, rate = figure.operations / figure.seconds;
    std::cout << absl::StrFormat("%-30s %6d %10.1f %7.2f %7.0f%% %8.0f %8.0f%%\n", figure.name, figure.rows,
                                 figure.seconds * 1e6, bandwidth * 1e-12,
                                 100 * Share(bandwidth, ceilings.copy_bytes_per_second), rate * 1e-12,
                                 100 * Share(rate, ceilings.bf16_flops_per_second));
  }
}

void PrintJson(const std::string& name, const AcceleratorCeilings& ceilings,
                      const std::vector<KernelFigure>& figures) {
  JsonWriter json;
  json.BeginObject().Key("device").Text(name);
  json.Key("copy_bytes_per_second").Real(ceilings.copy_bytes_per_second);
  json.Key("bf16_flops_per_second").Real(ceilings.bf16_flops_per_second);
  json.Key("fp8_flops_per_second").Real(ceilings.fp8_flops_per_second).Key("kernels").BeginArray();
  for (const KernelFigure& figure : figures) {
    json.BeginObject().Key("name").Text(figure.name).Key("rows").Number(figure.rows);
    json.Key("seconds").Real(figure.seconds).Key("bytes").Real(figure.bytes);
    json.Key("operations").Real(figure.operations).End();
  }
  std::cout << json.End().End().text() << "\n";
}

}  // namespace

void DeviceBenchFlags::Declare(CommandFlags& flags) {
  flags.Add("device", &device, "NAME", "cpu, or a GPU: cuda, cuda:1, …");
  flags.Add("rows", &rows, "N,N,…", "on a GPU: rows of an operation, and of each expert");
  flags.Add("experts", &experts, "N", "on a GPU: routed experts").minimum = 1;
  flags.Add("context", &context, "N", "on a GPU: tokens that attention looks back at").minimum = 1;
}

absl::Status BenchDeviceKernels(const DeviceBenchFlags& flags, const std::string& output) {
  KernelBenchShape shape;
  shape.experts = flags.experts;
  shape.context = flags.context;
  shape.rows.clear();
  for (const absl::string_view word : absl::StrSplit(flags.rows, ',', absl::SkipEmpty())) {
    int64_t number = 0;
    if (!absl::SimpleAtoi(word, &number) || number < 1 || number > kRowsMax) {
      return UsageError(
          absl::StrCat("--rows takes numbers from 1 to ", kRowsMax, " with commas between them; '", word, "' is none"));
    }
    shape.rows.push_back(number);
  }
  if (shape.rows.empty()) return UsageError("--rows names no number");
  if (const absl::Status status = ValidateDeviceName(flags.device); !status.ok()) return UsageError(status.message());
  ASSIGN_OR_RETURN(const auto accelerator, OpenAccelerator(flags.device));
  if (accelerator->info().portable) {
    return absl::FailedPreconditionError(absl::StrCat(
        "bench-kernels times kernels for Hopper GPUs, ", accelerator->info().name,
        " runs plain ones: conclave bench-model --device cuda shows what a model reaches on it"));
  }
  ASSIGN_OR_RETURN(const AcceleratorCeilings ceilings, accelerator->MeasureCeilings());
  ASSIGN_OR_RETURN(const std::vector<KernelFigure> figures, TimeKernels(*accelerator, shape));
  output == "json" ? PrintJson(accelerator->info().name, ceilings, figures)
                   : PrintText(accelerator->info().name, ceilings, figures);
  return absl::OkStatus();
}

}  // namespace conclave
