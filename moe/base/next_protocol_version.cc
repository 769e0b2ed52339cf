// Makes a binary announce the protocol's next version, so that tests can update a cluster to it.
#include "moe/base/protocol_version.h"

namespace conclave {

int AnnouncedProtocolVersion() { return kProtocolVersion + 1; }

}  // namespace conclave
