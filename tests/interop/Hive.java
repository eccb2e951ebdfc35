// HiveMQ CE lets nobody in without an extension that says who may: this one lets everybody in. java -cp ... Hive.java CONF DATA EXTENSIONS
import com.hivemq.embedded.EmbeddedExtension;
import com.hivemq.embedded.EmbeddedHiveMQ;
import com.hivemq.extension.sdk.api.ExtensionMain;
import com.hivemq.extension.sdk.api.auth.SimpleAuthenticator;
import com.hivemq.extension.sdk.api.parameter.*;
import com.hivemq.extension.sdk.api.services.Services;
import java.nio.file.Path;

public class Hive {
    static class All implements ExtensionMain {
        public void extensionStart(ExtensionStartInput input, ExtensionStartOutput output) {
            SimpleAuthenticator all = (in, out) -> out.authenticateSuccessfully();
            Services.securityRegistry().setAuthenticatorProvider(ignored -> all);
        }
        public void extensionStop(ExtensionStopInput input, ExtensionStopOutput output) {}
    }

    public static void main(String[] given) throws Exception {
        EmbeddedExtension all = EmbeddedExtension.builder().withId("all").withName("all").withVersion("1").withPriority(0)
            .withStartPriority(1000).withAuthor("Fieldgate").withExtensionMain(new All()).build();
        EmbeddedHiveMQ hive = EmbeddedHiveMQ.builder().withConfigurationFolder(Path.of(given[0])).withDataFolder(Path.of(given[1]))
            .withExtensionsFolder(Path.of(given[2])).withEmbeddedExtension(all).build();
        hive.start().join();
        Runtime.getRuntime().addShutdownHook(new Thread(() -> hive.stop().join()));
        Thread.currentThread().join();
    }
}
