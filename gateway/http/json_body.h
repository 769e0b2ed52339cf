// Strict reading of a request's JSON: what is wrong is named by its place in the tree and in the text.
#ifndef CONCLAVE_GATEWAY_HTTP_JSON_BODY_H_
#define CONCLAVE_GATEWAY_HTTP_JSON_BODY_H_

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "nlohmann/json.hpp"

namespace conclave {

// Values of one body: each costs memory beside its text.
inline constexpr int64_t kJsonValuesMax = 4'000'000;

// The body as one JSON object in UTF-8, at most limits::kJsonDepthMax deep, with no key twice in one object and no
// number beyond a double. INVALID_ARGUMENT begins with the path of the value, "messages[2].content: ", where the
// damage is inside one. Stack use is bounded; time is linear.
absl::StatusOr<nlohmann::json> ParseJsonBody(absl::string_view text);

// The text of each item of the list that a body has under `key`, as it was written: a tree does not keep the order of
// keys. Empty: no such list, or its key is written with escapes. REQUIRES: ParseJsonBody accepts the body
std::vector<absl::string_view> ListItemTexts(absl::string_view body, absl::string_view key);
// The value of a member of an object, as it was written: trees do not keep the order of members. Empty: there is none.
// REQUIRES: `object` is a JSON object, which ParseJsonBody would take
absl::string_view JsonMember(absl::string_view object, absl::string_view name);

}  // namespace conclave

#endif  // CONCLAVE_GATEWAY_HTTP_JSON_BODY_H_
