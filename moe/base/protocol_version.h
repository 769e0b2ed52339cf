// The version of what the processes of a cluster say to each other. While a cluster is updated, a release talks with
// the one before it and the one after it, in both directions.
#ifndef CONCLAVE_MOE_BASE_PROTOCOL_VERSION_H_
#define CONCLAVE_MOE_BASE_PROTOCOL_VERSION_H_

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace conclave {

// Of this source. It goes up by one when a release changes the messages so that the release before the last could no
// longer make sense of them. 0 stands for releases that announced none.
inline constexpr int kProtocolVersion = 1;

// What this process announces: kProtocolVersion, but for builds that stand in for a later release in tests.
int AnnouncedProtocolVersion();

// FAILED_PRECONDITION names `peer` and says who is to be updated, where its version is further away than one.
absl::Status CheckProtocolVersion(absl::string_view peer, int version);

}  // namespace conclave

#endif  // CONCLAVE_MOE_BASE_PROTOCOL_VERSION_H_
