#include "moe/transport/check_caller.h"

#include "absl/strings/str_cat.h"

namespace conclave {

absl::Status CheckCaller(const ShardDescription& description, absl::string_view model, absl::string_view profile,
                         uint64_t epoch) {
  if (!model.empty() && model != description.model_fingerprint) {
    return absl::FailedPreconditionError(absl::StrCat(description.name, " serves the model ",
                                                      description.model_fingerprint, ", the caller ", model,
                                                      "; start both with the same --model"));
  }
  if (!profile.empty() && profile != description.numeric_profile) {
    return absl::FailedPreconditionError(absl::StrCat(description.name, " computes with the numeric profile ",
                                                      description.numeric_profile, ", the caller with ", profile,
                                                      "; start both with the same --compute, or allow mixed numerics"));
  }
  if (epoch != 0 && epoch != description.placement_epoch) {
    return absl::FailedPreconditionError(absl::StrCat(description.name, " is at placement epoch ",
                                                      description.placement_epoch, ", the caller at ", epoch,
                                                      "; ask again when both are at the same one"));
  }
  return absl::OkStatus();
}

}  // namespace conclave
