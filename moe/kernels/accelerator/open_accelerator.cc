#include "moe/kernels/accelerator/open_accelerator.h"

#include <dlfcn.h>
#include <unistd.h>

#include <climits>
#include <string>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/strip.h"
#include "moe/base/log.h"

namespace conclave {
namespace {

// "cuda" is 0, "cuda:3" is 3; -1 for anything else.
int CudaOrdinal(absl::string_view device) {
  int ordinal = 0;
  if (!absl::ConsumePrefix(&device, "cuda")) return -1;
  if (device.empty()) return 0;
  if (!absl::ConsumePrefix(&device, ":") || !absl::SimpleAtoi(device, &ordinal)) return -1;
  return ordinal >= 0 && ordinal < 64 ? ordinal : -1;
}

// Beside the program, where an installation has it; where a build leaves it; wherever the loader looks.
std::vector<std::string> LibraryPlaces() {
  char path[PATH_MAX];
  const ssize_t size = readlink("/proc/self/exe", path, sizeof(path));
  std::vector<std::string> places;
  if (size > 0 && size < static_cast<ssize_t>(sizeof(path))) {
    const std::string program(path, static_cast<size_t>(size));
    const std::string directory = program.substr(0, program.rfind('/'));
    places.push_back(absl::StrCat(directory, "/", kCudaLibrary));
    places.push_back(absl::StrCat(directory, "/../lib/", kCudaLibrary));
    places.push_back(absl::StrCat(directory, "/../moe/kernels/cuda/", kCudaLibrary));
  }
  places.push_back(kCudaLibrary);
  return places;
}

absl::StatusOr<void*> OpenLibrary() {
  std::string reason;
  for (const std::string& place : LibraryPlaces()) {
    if (place[0] == '/' && access(place.c_str(), R_OK) != 0) continue;
    if (void* library = dlopen(place.c_str(), RTLD_NOW | RTLD_LOCAL)) return library;
    const char* error = dlerror();
    reason = error != nullptr ? error : "unknown";
  }
  return absl::FailedPreconditionError(
      absl::StrCat("--device cuda: ", kCudaLibrary, " cannot be loaded (", reason, "); build //moe/kernels/cuda:",
                   kCudaLibrary, " with a CUDA toolkit and put it beside the program, or use --device cpu"));
}

}  // namespace

absl::Status ValidateDeviceName(absl::string_view device) {
  if (device == "cpu" || CudaOrdinal(device) >= 0) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("--device: expected cpu, cuda or cuda:N, got '", device.substr(0, 60), "'"));
}

absl::StatusOr<std::unique_ptr<Accelerator>> OpenAccelerator(absl::string_view device) {
  if (absl::Status valid = ValidateDeviceName(device); !valid.ok()) return valid;
  if (device == "cpu") return nullptr;
  absl::StatusOr<void*> library = OpenLibrary();
  if (!library.ok()) return library.status();
  // Never closed: the driver keeps threads of its own in it.
  const auto open = reinterpret_cast<OpenAcceleratorFunction>(dlsym(*library, kAcceleratorSymbol));
  if (open == nullptr) {
    return absl::FailedPreconditionError(
        absl::StrCat("--device cuda: ", kCudaLibrary, " exports no ", kAcceleratorSymbol, ": it is of another build"));
  }
  absl::StatusOr<std::unique_ptr<Accelerator>> accelerator = open(kAcceleratorRevision, CudaOrdinal(device));
  if (accelerator.ok() && (*accelerator)->info().portable) {
    LogWarning(absl::StrCat("--device ", device, ": ", (*accelerator)->info().name, " (", (*accelerator)->info().isa,
                            ") runs plain kernels, slowly: the fast ones need a Hopper GPU (compute capability 9.0)"));
  }
  return accelerator;
}

}  // namespace conclave
