#include "moe/transport/nccl/nccl_api.h"

#include <dlfcn.h>

#include <cstdlib>

#include "absl/strings/str_cat.h"

namespace conclave {
namespace {

constexpr char kLibrary[] = "libnccl.so.2";

template <typename Function>
bool Find(void* library, const char* name, Function* function) {
  *function = reinterpret_cast<Function>(dlsym(library, name));
  return *function != nullptr;
}

absl::StatusOr<NcclApi> Load() {
  setenv("NCCL_MULTI_RANK_GPU_ENABLE", "1", /*overwrite=*/0);
  // Of use to collectives alone, and takes multicast memory of the whole host.
  setenv("NCCL_NVLS_ENABLE", "0", /*overwrite=*/0);
  void* const library = dlopen(kLibrary, RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) {
    const char* const why = dlerror();
    return absl::FailedPreconditionError(absl::StrCat("NCCL is not here (", why != nullptr ? why : kLibrary,
                                                      "); install libnccl2, or use another transport"));
  }
  NcclApi api;
  int (*get_version)(int*) = nullptr;
  const bool complete =
      Find(library, "ncclGetVersion", &get_version) && Find(library, "ncclGetUniqueId", &api.get_unique_id) &&
      Find(library, "ncclCommInitRankConfig", &api.comm_init_rank_config) &&
      Find(library, "ncclCommGetAsyncError", &api.comm_get_async_error) &&
      Find(library, "ncclCommAbort", &api.comm_abort) && Find(library, "ncclSend", &api.send) &&
      Find(library, "ncclRecv", &api.receive) && Find(library, "ncclGetErrorString", &api.get_error_string) &&
      Find(library, "ncclGetLastError", &api.get_last_error);
  if (!complete) return absl::FailedPreconditionError(absl::StrCat(kLibrary, " lacks functions: it is too old"));
  if (get_version(&api.version) != kNcclSuccess || api.version < kNcclVersionMin) {
    return absl::FailedPreconditionError(absl::StrCat(kLibrary, " is version ", NcclVersionText(api.version), ", ",
                                                      NcclVersionText(kNcclVersionMin), " or later is needed"));
  }
  return api;
}

}  // namespace

absl::StatusOr<const NcclApi*> LoadNccl() {
  static const absl::StatusOr<NcclApi>* const loaded = new absl::StatusOr<NcclApi>(Load());
  if (!loaded->ok()) return loaded->status();
  return &**loaded;
}

std::string NcclVersionText(int version) {
  return absl::StrCat(version / 10000, ".", version % 10000 / 100, ".", version % 100);
}

absl::Status NcclStatus(const NcclApi& api, absl::string_view what, int result) {
  if (result == kNcclSuccess || result == kNcclInProgress) return absl::OkStatus();
  const char* const last = api.get_last_error(nullptr);
  return absl::UnavailableError(absl::StrCat("nccl: ", what, ": ", api.get_error_string(result),
                                             last != nullptr && *last != '\0' ? ": " : "",
                                             last != nullptr ? last : ""));
}

}  // namespace conclave
