// What a JSON parser complains of, in words for people.
#ifndef CONCLAVE_MOE_BASE_JSON_COMPLAINT_H_
#define CONCLAVE_MOE_BASE_JSON_COMPLAINT_H_

#include "absl/strings/string_view.h"

namespace conclave {

// `what` of an exception of nlohmann's library, without the tag that the library puts in front, such as
// "[json.exception.parse_error.101] ".
inline absl::string_view JsonComplaint(absl::string_view what) {
  const size_t end = what.find("] ");
  return what.empty() || what.front() != '[' || end == absl::string_view::npos ? what : what.substr(end + 2);
}

}  // namespace conclave

#endif  // CONCLAVE_MOE_BASE_JSON_COMPLAINT_H_
