#include "gateway/rich_error.h"

#include <optional>
#include <string>

#include "absl/strings/cord.h"
#include "absl/time/time.h"
#include "gateway/refusal.h"
#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"
#include "moe/daemon/server_stream.h"

namespace conclave {

absl::Status WithGrpcDetails(absl::Status status) {
  if (status.ok()) return status;
  google::rpc::Status rich;
  rich.set_code(static_cast<int>(status.code()));
  rich.set_message(std::string(status.message()));
  if (const std::string field = FieldOf(status); absl::IsInvalidArgument(status) && !field.empty()) {
    google::rpc::BadRequest details;
    auto* violation = details.add_field_violations();
    violation->set_field(field);
    violation->set_description(std::string(status.message().substr(field.size() + 2)));
    rich.add_details()->PackFrom(details);
  }
  if (const std::optional<std::string> limit = LimitOf(status); limit.has_value()) {
    google::rpc::QuotaFailure details;
    auto* violation = details.add_violations();
    violation->set_subject(*limit);
    violation->set_description(std::string(status.message()));
    rich.add_details()->PackFrom(details);
  }
  if (const std::optional<absl::Duration> delay = RetryAfterOf(status); delay.has_value()) {
    google::rpc::RetryInfo details;
    const timespec time = absl::ToTimespec(*delay);
    details.mutable_retry_delay()->set_seconds(time.tv_sec);
    details.mutable_retry_delay()->set_nanos(static_cast<int>(time.tv_nsec));
    rich.add_details()->PackFrom(details);
  }
  if (rich.details_size() > 0) status.SetPayload(kGrpcDetailsPayload, absl::Cord(rich.SerializeAsString()));
  return status;
}

}  // namespace conclave
