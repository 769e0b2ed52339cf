#include "moe/base/protocol_version.h"

#include "absl/strings/str_cat.h"

namespace conclave {

// Weak: next_protocol_version.cc takes its place where it is linked in.
__attribute__((weak)) int AnnouncedProtocolVersion() { return kProtocolVersion; }

absl::Status CheckProtocolVersion(absl::string_view peer, int version) {
  const int ours = AnnouncedProtocolVersion();
  if (version >= ours - 1 && version <= ours + 1) return absl::OkStatus();
  return absl::FailedPreconditionError(
      absl::StrCat(peer, " speaks version ", version, " of the protocol, this process ", ours,
                   "; they may be one apart: update ", version < ours ? "the former" : "the latter",
                   " first, release by release"));
}

}  // namespace conclave
