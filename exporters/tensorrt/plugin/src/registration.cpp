// Registers the plugins while the library is being loaded, for programs that load it without asking it anything.
// REGISTER_TENSORRT_PLUGIN would leave out the namespace.
#include "creators.h"
#include "log.h"
#include "plugin.h"

namespace star_edge {
namespace {

struct Registration {
    Registration() {
        nvinfer1::IPluginRegistry *registry = getPluginRegistry();
        for (nvinfer1::IPluginCreatorInterface *creator : creators()) {
            if (registry != nullptr && registry->registerCreator(*creator, kNamespace)) continue;
            const char *name = static_cast<nvinfer1::IPluginCreatorV3One *>(creator)->getPluginName();
            log_error("%s: found %s, expected to register it in namespace %s", name,
                      registry == nullptr ? "no plugin registry" : "a creator of that name", kNamespace);
        }
    }
} registration;

}  // namespace
}  // namespace star_edge
